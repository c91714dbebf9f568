// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";

import {IKeeperRegistry} from "../interfaces/IKeeperRegistry.sol";

/// @title Versioned sets of keepers' signers
/// @dev A change during epoch e makes, once, the version of epoch e + 1; a version that an epoch has begun with is never
/// written again. Order in a set is the order of joining: it is the index in a report's bitmap.
abstract contract KeeperSets is IKeeperRegistry {
    using Checkpoints for Checkpoints.Trace224;

    // ------------------------------------------------------------------ storage

    struct SignerSet {
        bytes32 digest;
        address[] signers;
    }

    /// @notice Most signers of one epoch: a report's signer bitmap has this many bits.
    uint256 public constant MAX_KEEPERS = 64;

    /// @dev Version v is _sets[v]; version 0 is empty.
    SignerSet[] private _sets;
    /// @dev First epoch of a version -> version.
    Checkpoints.Trace224 private _versionFrom;

    constructor() {
        _sets.push().digest = _digest(0, new address[](0));
    }

    // ------------------------------------------------------------------------ views

    /// @inheritdoc IKeeperRegistry
    function signersAt(uint32 epoch) external view returns (address[] memory) {
        return _setOf(epoch).signers;
    }

    /// @inheritdoc IKeeperRegistry
    function quorumAt(uint32 epoch) external view returns (uint256) {
        return _quorum(_setOf(epoch).signers.length);
    }

    /// @inheritdoc IKeeperRegistry
    function setDigestAt(uint32 epoch) external view returns (bytes32) {
        return _setOf(epoch).digest;
    }

    /// @inheritdoc IKeeperRegistry
    function setAt(uint32 epoch) external view returns (address[] memory signers, uint256 quorum, bytes32 digest) {
        SignerSet storage set = _setOf(epoch);
        signers = set.signers;
        return (signers, _quorum(signers.length), set.digest);
    }

    /// @inheritdoc IKeeperRegistry
    function signersIn(
        uint32 epoch,
        uint256 signerBitmap
    ) external view returns (address[] memory signers, uint256 size, uint256 quorum, bytes32 digest) {
        SignerSet storage set = _setOf(epoch);
        address[] storage all = set.signers;
        size = all.length;
        signers = new address[](size);
        uint256 count = 0;
        for (uint256 i = 0; i < size; ++i) {
            if ((signerBitmap >> i) & 1 != 0) signers[count++] = all[i];
        }
        return (signers, size, _quorum(size), set.digest);
    }

    /// @inheritdoc IKeeperRegistry
    function setVersionAt(uint32 epoch) external view returns (uint256) {
        return _versionFrom.upperLookupRecent(epoch);
    }

    // -------------------------------------------------------------------- internals

    /// @dev Adds a signer to the set of the coming epoch.
    function _addSigner(uint32 nextEpoch, address signer) internal {
        SignerSet storage set = _nextSet(nextEpoch);
        if (set.signers.length == MAX_KEEPERS) revert KeeperSetFull(MAX_KEEPERS);
        set.signers.push(signer);
        _sealSet(nextEpoch, set);
    }

    /// @dev Takes a signer that is in it out of the set of the coming epoch.
    function _dropSigner(uint32 nextEpoch, address signer) internal {
        SignerSet storage set = _nextSet(nextEpoch);
        _removeSigner(set.signers, signer);
        _sealSet(nextEpoch, set);
    }

    /// @dev Signers of an epoch, in the order of the bitmap.
    function _signersOf(uint32 epoch) internal view returns (address[] storage) {
        return _setOf(epoch).signers;
    }

    function _setOf(uint32 epoch) private view returns (SignerSet storage) {
        return _sets[_versionFrom.upperLookupRecent(epoch)];
    }

    /// @dev The set of the coming epoch, open for changes: a copy of the last one, made once an epoch. A version that
    /// an epoch has begun with is never written again.
    function _nextSet(uint32 nextEpoch) private returns (SignerSet storage next) {
        (bool exists, uint32 from, ) = _versionFrom.latestCheckpoint();
        SignerSet storage last = _sets[_sets.length - 1];
        if (exists && from == nextEpoch) return last;
        next = _sets.push();
        next.signers = last.signers;
        _versionFrom.push(nextEpoch, uint224(_sets.length - 1));
    }

    function _sealSet(uint32 fromEpoch, SignerSet storage set) private {
        uint256 version = _sets.length - 1;
        bytes32 digest = _digest(version, set.signers);
        set.digest = digest;
        emit KeeperSetChanged(fromEpoch, version, digest, set.signers);
    }

    /// @dev Keeps the order of the others. At most MAX_KEEPERS steps.
    function _removeSigner(address[] storage signers, address signer) private {
        uint256 last = signers.length - 1;
        uint256 i = 0;
        while (signers[i] != signer) ++i;
        for (; i < last; ++i) signers[i] = signers[i + 1];
        signers.pop();
    }

    function _digest(uint256 version, address[] memory signers) private pure returns (bytes32) {
        return keccak256(abi.encode(version, signers));
    }

    function _quorum(uint256 size) private pure returns (uint256) {
        return (2 * size) / 3 + 1;
    }
}
