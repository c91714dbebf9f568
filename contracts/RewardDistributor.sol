// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {AccessManaged} from "@openzeppelin/contracts/access/manager/AccessManaged.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {BitMaps} from "@openzeppelin/contracts/utils/structs/BitMaps.sol";
import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";

import {INodeRegistryLocker} from "./interfaces/INodeRegistryLocker.sol";
import {IRewardDistributor} from "./interfaces/IRewardDistributor.sol";
import {IUptimeAttestation} from "./interfaces/IUptimeAttestation.sol";
import {TokenTransfers} from "./libraries/TokenTransfers.sol";

/// @title Reward distributor
contract RewardDistributor is IRewardDistributor, AccessManaged, ReentrancyGuardTransient {
    using BitMaps for BitMaps.BitMap;
    using Checkpoints for Checkpoints.Trace224;
    using SafeERC20 for IERC20;
    using TokenTransfers for IERC20;

    // ------------------------------------------------------------------ storage

    /// @dev One slot. `amount` are fees and carried pools, and with the first claim, which sets `deadline`, the emission too:
    /// a pool and the finality of a report never change once an epoch is final, so later claims need not ask again.
    /// `paid` is what claims took, `settled` that nothing more is owed.
    struct Pool {
        uint104 amount;
        uint104 paid;
        uint40 deadline;
        bool settled;
    }

    /// @dev One slot: `total` wei over `epochs` epochs from `start` on.
    struct Term {
        uint104 total;
        uint32 start;
        uint32 epochs;
    }

    uint256 private constant BPS = 10_000;
    uint256 private constant MAX_AMOUNT = type(uint104).max;
    /// @notice Longest claim window, in seconds.
    uint32 public constant MAX_CLAIM_WINDOW = 3650 days;

    /// @inheritdoc IRewardDistributor
    IERC20 public immutable token;
    /// @inheritdoc IRewardDistributor
    INodeRegistryLocker public immutable nodes;
    /// @inheritdoc IRewardDistributor
    IUptimeAttestation public immutable attestation;
    /// @inheritdoc IRewardDistributor
    uint32 public immutable CLAIM_WINDOW;

    /// @inheritdoc IRewardDistributor
    address public reserve;
    mapping(uint32 epoch => Pool) private _pools;
    mapping(uint32 nodeId => BitMaps.BitMap epochs) private _claimed;
    /// @dev The last term scheduled; one storage read answers for every epoch from its start on.
    Term private _lastTerm;
    /// @dev Start epoch -> packed earlier term. Terms do not overlap, so the last that has begun is the only one.
    Checkpoints.Trace224 private _pastTerms;

    // -------------------------------------------------------------- construction

    /// @param token_ the token that is paid, a plain ERC-20
    /// @param nodes_ the node registry
    /// @param attestation_ the attestation contract
    /// @param claimWindow seconds from finality, 1 to MAX_CLAIM_WINDOW
    /// @param reserve_ receives sweeps
    /// @param authority_ the AccessManager
    constructor(
        IERC20 token_,
        INodeRegistryLocker nodes_,
        IUptimeAttestation attestation_,
        uint32 claimWindow,
        address reserve_,
        address authority_
    ) AccessManaged(authority_) {
        if (address(token_).code.length == 0) revert NotAContract("token", address(token_));
        if (address(nodes_).code.length == 0) revert NotAContract("nodes", address(nodes_));
        if (address(attestation_).code.length == 0) revert NotAContract("attestation", address(attestation_));
        if (claimWindow == 0 || claimWindow > MAX_CLAIM_WINDOW) {
            revert InvalidParameter("claimWindow", claimWindow, 1, MAX_CLAIM_WINDOW);
        }
        token = token_;
        nodes = nodes_;
        attestation = attestation_;
        CLAIM_WINDOW = claimWindow;
        _setReserve(reserve_);
    }

    // ----------------------------------------------------------------------- claims

    /// @inheritdoc IRewardDistributor
    function claim(
        uint32 nodeId,
        uint32 epoch,
        bytes32 packedLeaf,
        bytes32[13] calldata proof
    ) external nonReentrant returns (uint256 amount) {
        address to;
        (amount, to) = _claim(nodeId, epoch, packedLeaf, proof);
        if (amount != 0) token.safeTransfer(to, amount);
    }

    /// @inheritdoc IRewardDistributor
    function claimMany(Claim[] calldata claims) external nonReentrant returns (uint256 amount) {
        address payee = address(0);
        uint256 owed = 0;
        for (uint256 i = 0; i < claims.length; ++i) {
            Claim calldata one = claims[i];
            (uint256 reward, address to) = _claim(one.nodeId, one.epoch, one.packedLeaf, one.proof);
            if (to != payee) {
                if (owed != 0) token.safeTransfer(payee, owed);
                (payee, owed) = (to, 0);
            }
            owed += reward;
            amount += reward;
        }
        if (owed != 0) token.safeTransfer(payee, owed);
    }

    /// @dev Everything but the payment.
    function _claim(
        uint32 nodeId,
        uint32 epoch,
        bytes32 packedLeaf,
        bytes32[13] calldata proof
    ) private returns (uint256 amount, address to) {
        uint16 uptimeBps;
        Pool memory pool;
        (amount, uptimeBps, to, pool) = _earned(nodeId, epoch, packedLeaf, proof);
        _claimed[nodeId].set(epoch);
        emit RewardClaimed(nodeId, epoch, to, amount, uptimeBps);
        if (amount != 0) {
            pool.paid += uint104(amount); // at most the pool, which fits
            _pools[epoch] = pool;
        }
    }

    /// @dev All that a claim checks, and its outcome.
    function _earned(
        uint32 nodeId,
        uint32 epoch,
        bytes32 packedLeaf,
        bytes32[13] calldata proof
    ) private view returns (uint256 amount, uint16 uptimeBps, address to, Pool memory pool) {
        if (_claimed[nodeId].get(epoch)) revert AlreadyClaimed(nodeId, epoch);
        pool = _openPool(epoch);
        uint64 deadline = pool.deadline;
        if (block.timestamp > deadline) revert ClaimExpired(epoch, deadline, uint64(block.timestamp));
        uptimeBps = attestation.reportedUptimeOf(epoch, nodeId, packedLeaf, proof);
        uint256 weight;
        uint256 totalWeight;
        (weight, totalWeight, to) = nodes.rewardInputs(nodeId, epoch);
        if (weight == 0) revert NoWeight(nodeId, epoch);
        // weight < 2 ** 143, uptime < 2 ** 14, total < 2 ** 160: no overflow before mulDiv's 512 bits.
        amount = Math.mulDiv(pool.amount, weight * uptimeBps, BPS * totalWeight);
    }

    /// @dev The pool of a final epoch with emission and deadline, as the first claim stores it.
    function _openPool(uint32 epoch) private view returns (Pool memory pool) {
        pool = _pools[epoch];
        if (pool.deadline != 0) return pool;
        IUptimeAttestation.EpochStatus status = attestation.status(epoch);
        if (status != IUptimeAttestation.EpochStatus.Final) revert EpochNotFinal(epoch, status);
        pool.amount += uint104(emissionOf(epoch));
        pool.deadline = uint40(claimDeadline(epoch));
    }

    // ---------------------------------------------------------------------- funding

    /// @inheritdoc IRewardDistributor
    function fund(uint256 amount) external nonReentrant {
        if (amount == 0) revert ZeroAmount();
        uint32 epoch = nodes.currentEpoch() + 1;
        _addToPool(epoch, amount);
        emit Funded(epoch, msg.sender, amount);
        token.pullExact(msg.sender, amount);
    }

    /// @inheritdoc IRewardDistributor
    function scheduleEmission(uint256 total, uint32 startEpoch, uint32 epochs) external restricted nonReentrant {
        if (total == 0) revert ZeroAmount();
        if (total > MAX_AMOUNT) revert AmountTooLarge(total, MAX_AMOUNT);
        uint32 earliest = nodes.currentEpoch() + 1;
        Term memory last = _lastTerm;
        if (last.start + last.epochs > earliest) earliest = last.start + last.epochs;
        if (startEpoch < earliest) revert ScheduleOverlaps(startEpoch, earliest);
        uint32 room = type(uint32).max - startEpoch;
        if (epochs == 0 || epochs > room) revert InvalidParameter("epochs", epochs, 1, room);
        if (last.epochs != 0) _pastTerms.push(last.start, _packTerm(last));
        _lastTerm = Term(uint104(total), startEpoch, epochs);
        emit EmissionScheduled(total, startEpoch, epochs);
        token.pullExact(msg.sender, total);
    }

    /// @inheritdoc IRewardDistributor
    function rollover(uint32 lapsedEpoch) external {
        IUptimeAttestation.EpochStatus status = attestation.status(lapsedEpoch);
        if (status != IUptimeAttestation.EpochStatus.Lapsed) revert EpochNotLapsed(lapsedEpoch, status);
        uint256 amount = _settle(lapsedEpoch);
        uint32 toEpoch = nodes.currentEpoch() + 1;
        _addToPool(toEpoch, amount);
        emit PoolRolledOver(lapsedEpoch, toEpoch, amount);
    }

    /// @inheritdoc IRewardDistributor
    function sweep(uint32 epoch) external nonReentrant {
        IUptimeAttestation.EpochStatus status = attestation.status(epoch);
        if (status != IUptimeAttestation.EpochStatus.Final) revert EpochNotFinal(epoch, status);
        uint64 deadline = claimDeadline(epoch);
        if (block.timestamp <= deadline) revert ClaimStillOpen(epoch, deadline, uint64(block.timestamp));
        uint256 amount = _settle(epoch);
        emit EpochSwept(epoch, amount);
        if (amount != 0) token.safeTransfer(reserve, amount);
    }

    // --------------------------------------------------------------- administration

    /// @inheritdoc IRewardDistributor
    function setReserve(address newReserve) external restricted {
        _setReserve(newReserve);
    }

    // ------------------------------------------------------------------------ views

    /// @inheritdoc IRewardDistributor
    function earned(
        uint32 nodeId,
        uint32 epoch,
        bytes32 packedLeaf,
        bytes32[13] calldata proof
    ) external view returns (uint256 amount) {
        (amount, , , ) = _earned(nodeId, epoch, packedLeaf, proof);
    }

    /// @inheritdoc IRewardDistributor
    function poolOf(uint32 epoch) public view returns (uint256) {
        Pool storage pool = _pools[epoch];
        return pool.deadline == 0 ? emissionOf(epoch) + pool.amount : pool.amount;
    }

    /// @inheritdoc IRewardDistributor
    function emissionOf(uint32 epoch) public view returns (uint256) {
        Term memory term = _lastTerm;
        if (epoch < term.start) term = _unpackTerm(_pastTerms.upperLookupRecent(epoch));
        if (term.epochs == 0 || epoch - term.start >= term.epochs) return 0;
        uint256 total = term.total;
        uint256 index = epoch - term.start;
        return (total * (index + 1)) / term.epochs - (total * index) / term.epochs;
    }

    /// @inheritdoc IRewardDistributor
    function paidOf(uint32 epoch) external view returns (uint256) {
        return _pools[epoch].paid;
    }

    /// @inheritdoc IRewardDistributor
    function claimed(uint32 nodeId, uint32 epoch) external view returns (bool) {
        return _claimed[nodeId].get(epoch);
    }

    /// @inheritdoc IRewardDistributor
    function settled(uint32 epoch) external view returns (bool) {
        return _pools[epoch].settled;
    }

    /// @inheritdoc IRewardDistributor
    function claimDeadline(uint32 epoch) public view returns (uint64) {
        uint64 finalAt = attestation.finalAt(epoch);
        return finalAt == 0 ? 0 : finalAt + CLAIM_WINDOW;
    }

    // -------------------------------------------------------------------- internals

    /// @dev Marks nothing more as owed, and returns what was.
    function _settle(uint32 epoch) private returns (uint256 amount) {
        Pool storage pool = _pools[epoch];
        if (pool.settled) revert EpochSettled(epoch);
        pool.settled = true;
        amount = poolOf(epoch) - pool.paid;
    }

    /// @dev A pool never exceeds MAX_AMOUNT, emission included.
    function _addToPool(uint32 epoch, uint256 amount) private {
        uint256 pool = poolOf(epoch);
        if (amount > MAX_AMOUNT - pool) revert AmountTooLarge(amount, MAX_AMOUNT - pool);
        _pools[epoch].amount += uint104(amount);
    }

    function _packTerm(Term memory term) private pure returns (uint224) {
        return (uint224(term.total) << 64) | (uint224(term.start) << 32) | term.epochs;
    }

    function _unpackTerm(uint224 packed) private pure returns (Term memory) {
        return Term(uint104(packed >> 64), uint32(packed >> 32), uint32(packed));
    }

    function _setReserve(address newReserve) private {
        if (newReserve == address(0)) revert ZeroAddress();
        reserve = newReserve;
        emit ReserveSet(newReserve);
    }
}
