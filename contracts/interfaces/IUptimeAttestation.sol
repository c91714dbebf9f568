// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IKeeperRegistry} from "./IKeeperRegistry.sol";
import {INodeRegistryLocker} from "./INodeRegistryLocker.sol";

/// @title Uptime attestation
/// @notice One report an epoch, signed by a quorum of the epoch's keepers, final after a challenge window.
///
///   |<------- epoch e ------->|<-- submit window -->|
///                             | submit -> |<-- challenge window -->| final
///                             | no quorum in time: lapsed, for good
///
/// A guardian may reject a pending report once; a second one may then be submitted within a fresh submit window. After
/// a second rejection, or if no second report comes, the epoch lapses. Pauses stretch the windows: deadlines are kept in
/// active time, which stands still while the contract is paused.
///
/// The uptime tree has depth 13. Leaf i packs the uptimes of nodes 16i to 16i + 15 as uint16 basis points, node 16i
/// lowest: leaf = keccak256(0x00 || uint32 epoch || bytes32 packed), inner = keccak256(0x01 || left || right),
/// root = keccak256(0x02 || uint32 epoch || uint32 nodeCount || top).
interface IUptimeAttestation {
    // ------------------------------------------------------------------ types

    /// @notice Where an epoch's report stands.
    enum EpochStatus {
        Open,
        Pending,
        Final,
        Lapsed
    }

    /// @notice What keepers sign, as EIP-712 `EpochReport` of this contract's domain.
    /// @param epoch the epoch that the report covers
    /// @param uptimeRoot root of the uptime tree
    /// @param nodeCount highest node id that the tree covers
    /// @param executionRoot root of the epoch's execution records
    /// @param bundleHash content address of the evidence
    /// @param keeperSetDigest digest of the signer set of the epoch
    struct EpochReport {
        uint32 epoch;
        bytes32 uptimeRoot;
        uint32 nodeCount;
        bytes32 executionRoot;
        bytes32 bundleHash;
        bytes32 keeperSetDigest;
    }

    /// @notice What `reports` returns; all zero if the epoch has no report. The other fields of the report are in
    /// `ReportSubmitted`; `isStanding` proves them to a contract.
    /// @param digest first 14 bytes of the report's EIP-712 digest
    /// @param finalAt unix time from which the report is final; moves while the contract is paused
    /// @param signerBitmap bit i: signer i of the epoch's set signed
    struct ReportView {
        bytes32 uptimeRoot;
        uint32 nodeCount;
        bytes14 digest;
        uint64 finalAt;
        uint256 signerBitmap;
    }

    /// @notice Proof that a node answered in one slot: its own signature under a `ServiceReceipt` (domain of the market) and
    /// a keeper's under `SlotReceipt(epoch, slot, nodeId, receiptStructHash)` (domain of this contract). Signatures are
    /// EIP-2098 compact.
    /// @param slot probe slot, below SLOTS_PER_EPOCH
    /// @param keeperIndex index of the keeper in the epoch's set
    /// @param receiptStructHash EIP-712 struct hash of the node's receipt
    /// @param nodeR r of the node's signature
    /// @param nodeVs s of the node's signature with v in the top bit
    /// @param keeperR r of the keeper's signature
    /// @param keeperVs s of the keeper's signature with v in the top bit
    struct SlotEvidence {
        uint16 slot;
        uint16 keeperIndex;
        bytes32 receiptStructHash;
        bytes32 nodeR;
        bytes32 nodeVs;
        bytes32 keeperR;
        bytes32 keeperVs;
    }

    // ----------------------------------------------------------------- events

    /// @notice A quorum's report was taken.
    event ReportSubmitted(
        uint32 indexed epoch,
        bytes32 uptimeRoot,
        uint32 nodeCount,
        bytes32 executionRoot,
        bytes32 bundleHash,
        uint256 signerBitmap,
        uint64 finalAt
    );
    /// @notice A guardian rejected the pending report, with this digest. `reopenedUntil` is 0 if the epoch has lapsed with it.
    event ReportRejected(uint32 indexed epoch, bytes14 reportDigest, uint64 reopenedUntil);
    /// @notice An appeal replaced one node's uptime.
    event UptimeOverridden(uint32 indexed epoch, uint32 indexed nodeId, uint16 attested, uint16 recounted);

    /// @notice A keeper signed two different reports of one epoch.
    event EquivocationProven(uint32 indexed epoch, uint256 indexed signerIndex, bytes32 digestA, bytes32 digestB);
    /// @notice The market whose receipts are evidence was wired, once.
    event MarketSet(address market);

    // ----------------------------------------------------------------- errors

    /// @notice A constructor argument is outside its bound.
    error InvalidParameter(bytes32 name, uint256 value, uint256 min, uint256 max);
    /// @notice The epoch is not over yet.
    error EpochNotOver(uint32 epoch, uint64 endsAt, uint64 nowAt);
    /// @notice The call does not fit the epoch's status.
    error WrongStatus(uint32 epoch, EpochStatus status);
    /// @notice The report names another signer set than the epoch's.
    error WrongKeeperSet(bytes32 given, bytes32 expected);
    /// @notice The uptime root is zero.
    error EmptyRoot(uint32 epoch);
    /// @notice The report covers more nodes than exist.
    error TooManyNodes(uint32 nodeCount, uint32 limit);
    /// @notice This very report was rejected by a guardian.
    error ReportWasRejected(bytes32 reportDigest);
    /// @notice A bit of the bitmap names no signer.
    error UnknownSigner(uint256 signerBitmap, uint256 setSize);
    /// @notice Fewer signers than the quorum.
    error QuorumNotReached(uint256 signers, uint256 quorum);
    /// @notice The signatures' length is not 65 bytes for each bit.
    error WrongSignaturesLength(uint256 length, uint256 expected);
    /// @notice The signature at this index of the set is not its signer's.
    error InvalidSignature(uint256 index, address expected, address recovered);
    /// @notice The packed leaf is not in the epoch's tree.
    error InvalidProof(uint32 epoch, uint32 nodeId);
    /// @notice The report does not cover this node.
    error NodeNotCovered(uint32 epoch, uint32 nodeId, uint32 nodeCount);
    /// @notice The attested uptime is above 10,000 basis points.
    error UptimeOutOfRange(uint32 epoch, uint32 nodeId, uint16 uptimeBps);

    /// @notice The market is already wired, or is no contract.
    error InvalidMarket(address market);
    /// @notice An epoch has at most SLOTS_PER_EPOCH slots, numbered from 0, and evidence goes upwards without repeats.
    error WrongSlotOrder(uint256 index, uint16 slot);
    /// @notice The slot's receipt is not signed by a key that is or was the node's.
    error InvalidNodeEvidence(uint16 slot, address recovered);
    /// @notice The slot's receipt is not signed by the keeper at that index of the epoch's set.
    error InvalidKeeperEvidence(uint16 slot, address recovered);
    /// @notice The recount does not exceed the attested value by more than the tolerance.
    error WithinTolerance(uint16 attested, uint16 recounted);
    /// @notice The two reports are the same, or of different epochs.
    error NotEquivocation(bytes32 digestA, bytes32 digestB);
    /// @notice This keeper's equivocation in this epoch was shown before.
    error AlreadyProven(uint32 epoch, uint256 signerIndex);

    // ------------------------------------------------------------------- calls

    /// @notice Takes the report of an epoch that is over. Anybody who holds a quorum's signatures may send it.
    /// @param report what was signed
    /// @param signerBitmap bit i: the signature of signer i of the epoch's set is included
    /// @param signatures 65 bytes (r, s, v) for each set bit, lowest bit first
    function submit(EpochReport calldata report, uint256 signerBitmap, bytes calldata signatures) external;

    /// @notice Recounts a node's uptime from dual-signed receipts while the report is pending: receipts / slots is a lower
    /// bound. If it exceeds the attested value by more than TOLERANCE_BPS, it replaces it, and a slash of the report's signers
    /// is proposed, once a report. A full appeal of 288 slots fits a block.
    /// @param epoch the epoch
    /// @param nodeId the node; one that the report does not cover counts as attested 0 and needs no proof
    /// @param packedLeaf leaf nodeId / 16 of the report's tree
    /// @param proof its 13 siblings, lowest first
    /// @param evidence receipts in rising order of slots
    function appeal(
        uint32 epoch,
        uint32 nodeId,
        bytes32 packedLeaf,
        bytes32[13] calldata proof,
        SlotEvidence[] calldata evidence
    ) external;

    /// @notice Shows two different reports of one epoch signed by one keeper of its set: all of its bond is proposed to be
    /// slashed. Reports that a guardian rejected are no evidence, as a second one had to be signed.
    /// @param first one report
    /// @param firstSignature 65 bytes (r, s, v)
    /// @param second another report of the same epoch
    /// @param secondSignature 65 bytes (r, s, v)
    /// @param signerIndex index of the keeper in the epoch's set
    function proveEquivocation(
        EpochReport calldata first,
        bytes calldata firstSignature,
        EpochReport calldata second,
        bytes calldata secondSignature,
        uint256 signerIndex
    ) external;

    // ------------------------------------------------------------ administration

    /// @notice Wires the market whose receipts are evidence, once.
    function setMarket(address newMarket) external;

    /// @notice Rejects the pending report of `epoch`. The first rejection opens a fresh submit window, the second lapses
    /// the epoch.
    function rejectReport(uint32 epoch) external;

    /// @notice Stops submissions and appeals, and the clock of their windows.
    function pause() external;

    /// @notice Lets them, and the clock, go on.
    function unpause() external;

    // -------------------------------------------------------------------- views

    /// @notice Status of `epoch` now. `Open` also covers epochs that are not over.
    function status(uint32 epoch) external view returns (EpochStatus);

    /// @notice The standing report of `epoch`.
    function reports(uint32 epoch) external view returns (ReportView memory);

    /// @notice Whether `report` is, field by field, the standing report of its epoch: so a caller's execution root or bundle
    /// hash can be believed, though only the uptime root is stored in full.
    function isStanding(EpochReport calldata report) external view returns (bool);

    /// @notice Unix time from which the standing report is final; 0 if there is none.
    function finalAt(uint32 epoch) external view returns (uint64);

    /// @notice Last unix time before which a report of `epoch` is taken, as far as known now: a pause moves it. While a second
    /// report stands, the time when that one is final.
    function submitDeadline(uint32 epoch) external view returns (uint64);

    /// @notice Whether the report of `epoch` is final.
    function isFinal(uint32 epoch) external view returns (bool);

    /// @notice Uptime of a node in a final epoch, in basis points.
    /// @param epoch the epoch
    /// @param nodeId the node
    /// @param packedLeaf leaf nodeId / 16 of the epoch's tree
    /// @param proof its 13 siblings, lowest first
    function uptimeOf(
        uint32 epoch,
        uint32 nodeId,
        bytes32 packedLeaf,
        bytes32[13] calldata proof
    ) external view returns (uint16 uptimeBps);

    /// @notice `uptimeOf` in the standing report, final or not.
    function reportedUptimeOf(
        uint32 epoch,
        uint32 nodeId,
        bytes32 packedLeaf,
        bytes32[13] calldata proof
    ) external view returns (uint16 uptimeBps);

    /// @notice EIP-712 digest of a report, as keepers sign it.
    function hashReport(EpochReport calldata report) external view returns (bytes32 digest);

    /// @notice What an appeal set a node's uptime to in the standing report.
    function overrideOf(uint32 epoch, uint32 nodeId) external view returns (bool exists, uint16 uptimeBps);

    /// @notice The market whose receipts are evidence; zero before it is wired.
    function market() external view returns (address);

    /// @notice Times a report of `epoch` was rejected.
    function rejections(uint32 epoch) external view returns (uint8);

    /// @notice Active time of a past or present unix time: seconds that no pause covered.
    function activeTime(uint64 timestamp) external view returns (uint64);

    /// @notice The unix time of an active time; for one not yet reached, as if no further pause came.
    function wallTime(uint64 active) external view returns (uint64);

    /// @notice Longest active time from the start of an epoch until it is final or lapsed.
    function settlementBound() external view returns (uint64);

    /// @notice Probe slots an epoch.
    function SLOTS_PER_EPOCH() external view returns (uint16);

    /// @notice Seconds of active time from an epoch's end in which a report is taken.
    function SUBMIT_WINDOW() external view returns (uint32);

    /// @notice Seconds of active time from a submission until the report is final.
    function CHALLENGE_WINDOW() external view returns (uint32);

    /// @notice The node registry.
    function nodes() external view returns (INodeRegistryLocker);

    /// @notice The keeper registry.
    function keepers() external view returns (IKeeperRegistry);
}
