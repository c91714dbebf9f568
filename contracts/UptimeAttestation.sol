// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";

import {EpochReports} from "./base/EpochReports.sol";
import {IKeeperRegistry} from "./interfaces/IKeeperRegistry.sol";
import {INodeRegistryLocker} from "./interfaces/INodeRegistryLocker.sol";
import {IUptimeAttestation} from "./interfaces/IUptimeAttestation.sol";

/// @title Uptime attestation
/// @dev Reports are EpochReports'; here is what can be held against them: appeals and proofs of equivocation.
contract UptimeAttestation is IUptimeAttestation, EpochReports {
    // ------------------------------------------------------------------ storage

    bytes32 private constant SLOT_TYPEHASH = keccak256(
        "SlotReceipt(uint32 epoch,uint32 slot,uint32 nodeId,bytes32 receiptStructHash)"
    );
    bytes32 private constant DOMAIN_TYPEHASH = keccak256(
        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    );
    uint256 private constant BPS = 10_000;
    /// @notice An appeal must exceed the attested value by more than this, in basis points.
    uint16 public constant TOLERANCE_BPS = 100;

    mapping(uint32 epoch => uint256 signerBitmap) private _equivocated;
    /// @inheritdoc IUptimeAttestation
    address public market;

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
    ) EpochReports(nodes_, keepers_, submitWindow, challengeWindow, slotsPerEpoch, authority_) {}

    // ---------------------------------------------------------------------- appeals

    /// @inheritdoc IUptimeAttestation
    function appeal(
        uint32 epoch,
        uint32 nodeId,
        bytes32 packedLeaf,
        bytes32[13] calldata proof,
        SlotEvidence[] calldata evidence
    ) external whenNotPaused {
        EpochStatus current = status(epoch);
        if (current != EpochStatus.Pending) revert WrongStatus(epoch, current);
        Report storage report = _reports[epoch];
        (bool overridden, uint16 attested) = _overrideOf(report, epoch, nodeId);
        if (!overridden && nodeId <= report.nodeCount) attested = _attested(report, epoch, nodeId, packedLeaf, proof);
        _checkEvidence(epoch, nodeId, evidence);
        uint16 recounted = uint16((BPS * evidence.length) / SLOTS_PER_EPOCH);
        if (recounted <= attested + TOLERANCE_BPS) revert WithinTolerance(attested, recounted);

        _overrides[epoch][_reports[epoch].rejections][nodeId] = recounted + 1;
        emit UptimeOverridden(epoch, nodeId, attested, recounted);
        if (!report.overruled) {
            report.overruled = true;
            keepers.proposeSlash(epoch, report.signers, IKeeperRegistry.SlashReason.OverruledReport);
        }
    }

    /// @dev Every slot once, answered by the node and witnessed by a keeper of the epoch's set.
    function _checkEvidence(uint32 epoch, uint32 nodeId, SlotEvidence[] calldata evidence) private view {
        address[] memory signers = keepers.signersAt(epoch);
        bytes32 receiptDomain = keccak256(
            abi.encode(DOMAIN_TYPEHASH, keccak256("ParalleliX"), keccak256("1"), block.chainid, market)
        );
        address nodeKey = address(0);
        uint256 nextSlot = 0;
        for (uint256 i = 0; i < evidence.length; ++i) {
            SlotEvidence calldata one = evidence[i];
            if (one.slot < nextSlot || one.slot >= SLOTS_PER_EPOCH) revert WrongSlotOrder(i, one.slot);
            nextSlot = uint256(one.slot) + 1;

            bytes32 digest = MessageHashUtils.toTypedDataHash(receiptDomain, one.receiptStructHash);
            (address recovered, , ) = ECDSA.tryRecover(digest, one.nodeR, one.nodeVs);
            if (recovered != nodeKey || recovered == address(0)) {
                if (nodeId == 0 || nodes.boundNodeOf(recovered) != nodeId) {
                    revert InvalidNodeEvidence(one.slot, recovered);
                }
                nodeKey = recovered;
            }

            digest = _hashTypedDataV4(
                keccak256(abi.encode(SLOT_TYPEHASH, epoch, uint32(one.slot), nodeId, one.receiptStructHash))
            );
            (recovered, , ) = ECDSA.tryRecover(digest, one.keeperR, one.keeperVs);
            if (one.keeperIndex >= signers.length || recovered != signers[one.keeperIndex] || recovered == address(0)) {
                revert InvalidKeeperEvidence(one.slot, recovered);
            }
        }
    }

    /// @inheritdoc IUptimeAttestation
    function proveEquivocation(
        EpochReport calldata first,
        bytes calldata firstSignature,
        EpochReport calldata second,
        bytes calldata secondSignature,
        uint256 signerIndex
    ) external {
        uint32 epoch = first.epoch;
        bytes32 digestA = _hashReport(first);
        bytes32 digestB = _hashReport(second);
        if (epoch != second.epoch || digestA == digestB) revert NotEquivocation(digestA, digestB);
        if (_rejected[bytes14(digestA)]) revert ReportWasRejected(digestA);
        if (_rejected[bytes14(digestB)]) revert ReportWasRejected(digestB);
        address[] memory signers = keepers.signersAt(epoch);
        if (signerIndex >= signers.length) revert UnknownSigner(1 << signerIndex, signers.length);
        address signer = signers[signerIndex];
        address recovered = _recover(digestA, firstSignature);
        if (recovered != signer) revert InvalidSignature(signerIndex, signer, recovered);
        recovered = _recover(digestB, secondSignature);
        if (recovered != signer) revert InvalidSignature(signerIndex, signer, recovered);

        uint256 bit = 1 << signerIndex;
        if (_equivocated[epoch] & bit != 0) revert AlreadyProven(epoch, signerIndex);
        _equivocated[epoch] |= bit;
        emit EquivocationProven(epoch, signerIndex, digestA, digestB);
        keepers.proposeSlash(epoch, bit, IKeeperRegistry.SlashReason.Equivocation);
    }

    // --------------------------------------------------------------- administration

    /// @inheritdoc IUptimeAttestation
    function setMarket(address newMarket) external restricted {
        if (market != address(0) || newMarket.code.length == 0) revert InvalidMarket(newMarket);
        market = newMarket;
        emit MarketSet(newMarket);
    }
}
