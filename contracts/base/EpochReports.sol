// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {AccessManaged} from "@openzeppelin/contracts/access/manager/AccessManaged.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {IKeeperRegistry} from "../interfaces/IKeeperRegistry.sol";
import {INodeRegistryLocker} from "../interfaces/INodeRegistryLocker.sol";
import {IUptimeAttestation} from "../interfaces/IUptimeAttestation.sol";
import {PauseClock} from "../libraries/PauseClock.sol";
import {UptimeTree} from "../libraries/UptimeTree.sol";

/// @title Epoch reports: submission by a quorum, challenge window, rejection, lapse, and the uptimes they attest
abstract contract EpochReports is IUptimeAttestation, AccessManaged, Pausable, EIP712 {
    using PauseClock for PauseClock.Pause[];

    // ------------------------------------------------------------------ storage

    /// @dev Two slots. `due` is in active time: when the report is final, or, while none stands (`signers` 0), until when
    /// another is taken after a rejection. `signers` has KeeperRegistry.MAX_KEEPERS bits, `nodeCount` is at most
    /// UptimeTree.MAX_NODE_ID. `digest` binds what is not stored: 112 bits against a second preimage, not a collision, which
    /// only a quorum could make use of, and a quorum may sign what it likes anyway.
    struct Report {
        uint40 due;
        uint64 signers;
        uint24 nodeCount;
        uint8 rejections;
        bool overruled;
        bytes14 digest;
        bytes32 uptimeRoot;
    }

    bytes32 private constant REPORT_TYPEHASH = keccak256(
        "EpochReport(uint32 epoch,bytes32 uptimeRoot,uint32 nodeCount,bytes32 executionRoot,bytes32 bundleHash,bytes32 keeperSetDigest)"
    );
    uint256 private constant SIGNATURE_LENGTH = 65;
    /// @dev A second rejection lapses the epoch, so that a guardian cannot hold an epoch open.
    uint8 private constant MAX_REJECTIONS = 2;
    /// @notice Longest submit or challenge window, in seconds.
    uint32 public constant MAX_WINDOW = 90 days;

    /// @inheritdoc IUptimeAttestation
    INodeRegistryLocker public immutable nodes;
    /// @inheritdoc IUptimeAttestation
    IKeeperRegistry public immutable keepers;
    /// @inheritdoc IUptimeAttestation
    uint32 public immutable SUBMIT_WINDOW;
    /// @inheritdoc IUptimeAttestation
    uint32 public immutable CHALLENGE_WINDOW;
    /// @inheritdoc IUptimeAttestation
    uint16 public immutable SLOTS_PER_EPOCH;
    uint64 private immutable GENESIS;
    uint32 private immutable EPOCH_LENGTH;

    mapping(uint32 epoch => Report) internal _reports;
    /// @dev The digests are of one epoch each.
    mapping(bytes14 reportDigest => bool) internal _rejected;
    /// @dev Uptime + 1 by an appeal against the report of this round (the number of rejections before it).
    mapping(uint32 epoch => mapping(uint8 round => mapping(uint32 nodeId => uint16))) internal _overrides;
    PauseClock.Pause[] private _pauses;

    // -------------------------------------------------------------- construction

    /// @param nodes_ the node registry
    /// @param keepers_ the keeper registry
    /// @param submitWindow seconds of active time, 1 to MAX_WINDOW
    /// @param challengeWindow seconds of active time, 1 to MAX_WINDOW
    /// @param slotsPerEpoch probe slots an epoch, 1 to 288
    /// @param authority_ the AccessManager
    constructor(
        INodeRegistryLocker nodes_,
        IKeeperRegistry keepers_,
        uint32 submitWindow,
        uint32 challengeWindow,
        uint16 slotsPerEpoch,
        address authority_
    ) AccessManaged(authority_) EIP712("ParalleliX", "1") {
        _checkRange("nodes", address(nodes_).code.length, 1, type(uint256).max);
        _checkRange("keepers", address(keepers_).code.length, 1, type(uint256).max);
        _checkRange("submitWindow", submitWindow, 1, MAX_WINDOW);
        _checkRange("challengeWindow", challengeWindow, 1, MAX_WINDOW);
        _checkRange("slotsPerEpoch", slotsPerEpoch, 1, 288);
        nodes = nodes_;
        keepers = keepers_;
        SUBMIT_WINDOW = submitWindow;
        CHALLENGE_WINDOW = challengeWindow;
        SLOTS_PER_EPOCH = slotsPerEpoch;
        GENESIS = nodes_.GENESIS();
        EPOCH_LENGTH = nodes_.EPOCH_LENGTH();
    }

    // ------------------------------------------------------------------- submission

    /// @inheritdoc IUptimeAttestation
    function submit(
        EpochReport calldata report,
        uint256 signerBitmap,
        bytes calldata signatures
    ) external whenNotPaused {
        uint32 epoch = report.epoch;
        uint64 endsAt = _endOf(epoch);
        if (block.timestamp < endsAt) revert EpochNotOver(epoch, endsAt, uint64(block.timestamp));
        uint64 activeNow = _pauses.toActive(uint64(block.timestamp));
        EpochStatus current = _status(epoch, activeNow, endsAt);
        if (current != EpochStatus.Open) revert WrongStatus(epoch, current);
        if (report.uptimeRoot == 0) revert EmptyRoot(epoch);
        uint32 registered = nodes.nodeCount();
        if (report.nodeCount > registered) revert TooManyNodes(report.nodeCount, registered);

        bytes32 digest = _hashReport(report);
        Report storage stored = _reports[epoch];
        if (stored.rejections != 0 && _rejected[bytes14(digest)]) revert ReportWasRejected(digest);
        _checkQuorum(report, digest, signerBitmap, signatures);

        uint64 finalActive = activeNow + CHALLENGE_WINDOW;
        stored.due = uint40(finalActive);
        stored.signers = uint64(signerBitmap);
        stored.nodeCount = uint24(report.nodeCount);
        stored.digest = bytes14(digest);
        stored.uptimeRoot = report.uptimeRoot;
        _announce(report, signerBitmap, _pauses.toWall(finalActive));
    }

    function _announce(EpochReport calldata report, uint256 signerBitmap, uint64 finalSince) private {
        emit ReportSubmitted(
            report.epoch,
            report.uptimeRoot,
            report.nodeCount,
            report.executionRoot,
            report.bundleHash,
            signerBitmap,
            finalSince
        );
    }

    /// @dev Each set bit takes the next signature, so no signer counts twice.
    function _checkQuorum(
        EpochReport calldata report,
        bytes32 digest,
        uint256 bitmap,
        bytes calldata signatures
    ) private view {
        (address[] memory signers, uint256 size, uint256 quorum, bytes32 setDigest) = keepers.signersIn(
            report.epoch,
            bitmap
        );
        if (report.keeperSetDigest != setDigest) revert WrongKeeperSet(report.keeperSetDigest, setDigest);
        if (bitmap >> size != 0) revert UnknownSigner(bitmap, size);
        uint256 used = 0;
        for (uint256 rest = bitmap; rest != 0; rest &= rest - 1) ++used;
        if (used < quorum) revert QuorumNotReached(used, quorum);
        uint256 expected = used * SIGNATURE_LENGTH;
        if (signatures.length != expected) revert WrongSignaturesLength(signatures.length, expected);

        uint256 index = 0;
        for (uint256 i = 0; i < used; ++i) {
            while ((bitmap >> index) & 1 == 0) ++index;
            uint256 offset = i * SIGNATURE_LENGTH;
            address recovered = _recover(digest, signatures[offset:offset + SIGNATURE_LENGTH]);
            if (recovered != signers[i]) revert InvalidSignature(index, signers[i], recovered);
            ++index;
        }
    }

    // --------------------------------------------------------------- administration

    /// @inheritdoc IUptimeAttestation
    function rejectReport(uint32 epoch) external restricted {
        uint64 endsAt = _endOf(epoch);
        uint64 activeNow = _pauses.toActive(uint64(block.timestamp));
        EpochStatus current = _status(epoch, activeNow, endsAt);
        if (current != EpochStatus.Pending) revert WrongStatus(epoch, current);

        Report storage report = _reports[epoch];
        bytes14 digest = report.digest;
        _rejected[digest] = true;
        uint8 count = report.rejections + 1;
        uint64 reopenedUntil = count == MAX_REJECTIONS ? 0 : activeNow + SUBMIT_WINDOW;
        delete _reports[epoch];
        report.rejections = count;
        report.due = uint40(reopenedUntil);
        emit ReportRejected(epoch, digest, reopenedUntil == 0 ? 0 : _pauses.toWall(reopenedUntil));
    }

    /// @inheritdoc IUptimeAttestation
    function pause() external restricted {
        _pause();
        _pauses.start();
    }

    /// @inheritdoc IUptimeAttestation
    function unpause() external restricted {
        _unpause();
        _pauses.stop();
    }

    // ------------------------------------------------------------------------ views

    /// @inheritdoc IUptimeAttestation
    function status(uint32 epoch) public view returns (EpochStatus) {
        uint64 timestamp = uint64(block.timestamp);
        uint64 endsAt = _endOf(epoch);
        return timestamp < endsAt ? EpochStatus.Open : _status(epoch, _pauses.toActive(timestamp), endsAt);
    }

    /// @inheritdoc IUptimeAttestation
    function reports(uint32 epoch) external view returns (ReportView memory) {
        Report storage report = _reports[epoch];
        return
            ReportView({
                uptimeRoot: report.uptimeRoot,
                nodeCount: report.nodeCount,
                digest: report.digest,
                finalAt: finalAt(epoch),
                signerBitmap: report.signers
            });
    }

    /// @inheritdoc IUptimeAttestation
    function isStanding(EpochReport calldata report) external view returns (bool) {
        Report storage stored = _reports[report.epoch];
        return
            stored.signers != 0 &&
            stored.uptimeRoot == report.uptimeRoot &&
            stored.digest == bytes14(_hashReport(report));
    }

    /// @inheritdoc IUptimeAttestation
    function finalAt(uint32 epoch) public view returns (uint64) {
        Report storage report = _reports[epoch];
        return report.signers == 0 ? 0 : _pauses.toWall(report.due);
    }

    /// @inheritdoc IUptimeAttestation
    function submitDeadline(uint32 epoch) external view returns (uint64) {
        uint64 endsAt = _endOf(epoch);
        if (block.timestamp < endsAt) return endsAt + SUBMIT_WINDOW;
        return _pauses.toWall(_deadlineActive(epoch, endsAt));
    }

    /// @inheritdoc IUptimeAttestation
    function isFinal(uint32 epoch) external view returns (bool) {
        return status(epoch) == EpochStatus.Final;
    }

    /// @inheritdoc IUptimeAttestation
    function uptimeOf(
        uint32 epoch,
        uint32 nodeId,
        bytes32 packedLeaf,
        bytes32[13] calldata proof
    ) external view returns (uint16 uptimeBps) {
        EpochStatus current = status(epoch);
        if (current != EpochStatus.Final) revert WrongStatus(epoch, current);
        return reportedUptimeOf(epoch, nodeId, packedLeaf, proof);
    }

    /// @inheritdoc IUptimeAttestation
    function reportedUptimeOf(
        uint32 epoch,
        uint32 nodeId,
        bytes32 packedLeaf,
        bytes32[13] calldata proof
    ) public view returns (uint16 uptimeBps) {
        Report storage report = _reports[epoch];
        bool overridden;
        (overridden, uptimeBps) = _overrideOf(report, epoch, nodeId);
        if (!overridden) uptimeBps = _attested(report, epoch, nodeId, packedLeaf, proof);
    }

    /// @inheritdoc IUptimeAttestation
    function overrideOf(uint32 epoch, uint32 nodeId) external view returns (bool exists, uint16 uptimeBps) {
        return _overrideOf(_reports[epoch], epoch, nodeId);
    }

    /// @inheritdoc IUptimeAttestation
    function hashReport(EpochReport calldata report) external view returns (bytes32 digest) {
        return _hashReport(report);
    }

    /// @inheritdoc IUptimeAttestation
    function rejections(uint32 epoch) external view returns (uint8) {
        return _reports[epoch].rejections;
    }

    /// @inheritdoc IUptimeAttestation
    function activeTime(uint64 timestamp) external view returns (uint64) {
        return _pauses.toActive(timestamp);
    }

    /// @inheritdoc IUptimeAttestation
    function wallTime(uint64 active) external view returns (uint64) {
        return _pauses.toWall(active);
    }

    /// @inheritdoc IUptimeAttestation
    function settlementBound() external view returns (uint64) {
        // The epoch, then two rounds of submission and challenge: a second rejection ends it.
        return uint64(EPOCH_LENGTH) + 2 * (uint64(SUBMIT_WINDOW) + CHALLENGE_WINDOW);
    }

    // -------------------------------------------------------------------- internals

    function _endOf(uint32 epoch) private view returns (uint64) {
        return GENESIS + (uint64(epoch) + 1) * EPOCH_LENGTH;
    }

    /// @dev Status of an epoch that is over. Active time never runs backwards, so Final and Lapsed last for ever.
    function _status(uint32 epoch, uint64 activeNow, uint64 endsAt) private view returns (EpochStatus) {
        Report storage report = _reports[epoch];
        if (report.signers != 0) return activeNow < report.due ? EpochStatus.Pending : EpochStatus.Final;
        return activeNow < _deadlineActive(epoch, endsAt) ? EpochStatus.Open : EpochStatus.Lapsed;
    }

    function _deadlineActive(uint32 epoch, uint64 endsAt) private view returns (uint64) {
        Report storage report = _reports[epoch];
        if (report.rejections != 0) return report.due;
        return _pauses.toActive(endsAt) + SUBMIT_WINDOW;
    }

    function _overrideOf(
        Report storage report,
        uint32 epoch,
        uint32 nodeId
    ) internal view returns (bool exists, uint16 uptimeBps) {
        if (!report.overruled) return (false, 0);
        uint16 stored = _overrides[epoch][_reports[epoch].rejections][nodeId];
        return stored == 0 ? (false, 0) : (true, stored - 1);
    }

    function _attested(
        Report storage report,
        uint32 epoch,
        uint32 nodeId,
        bytes32 packedLeaf,
        bytes32[13] calldata proof
    ) internal view returns (uint16 uptimeBps) {
        uint32 nodeCount = report.nodeCount;
        if (nodeId == 0 || nodeId > nodeCount) revert NodeNotCovered(epoch, nodeId, nodeCount);
        bytes32 root = UptimeTree.computeRoot(epoch, nodeCount, nodeId, packedLeaf, proof);
        if (root != report.uptimeRoot) revert InvalidProof(epoch, nodeId);
        uptimeBps = UptimeTree.uptimeIn(packedLeaf, nodeId);
        if (uptimeBps > 10_000) revert UptimeOutOfRange(epoch, nodeId, uptimeBps);
    }

    function _hashReport(EpochReport memory report) internal view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(REPORT_TYPEHASH, report)));
    }

    /// @dev Zero if the signature is malformed or malleable.
    function _recover(bytes32 digest, bytes calldata signature) internal pure returns (address recovered) {
        (recovered, , ) = ECDSA.tryRecoverCalldata(digest, signature);
    }

    function _checkRange(bytes32 name, uint256 value, uint256 min, uint256 max) private pure {
        if (value < min || value > max) revert InvalidParameter(name, value, min, max);
    }
}
