// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {AccessManaged} from "@openzeppelin/contracts/access/manager/AccessManaged.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {INodeRegistryLocker} from "./interfaces/INodeRegistryLocker.sol";
import {EpochTrace} from "./libraries/EpochTrace.sol";
import {Tiers} from "./libraries/Tiers.sol";
import {TokenTransfers} from "./libraries/TokenTransfers.sol";
import {UptimeTree} from "./libraries/UptimeTree.sol";

/// @title Node registry and stake locker
contract NodeRegistryLocker is INodeRegistryLocker, AccessManaged, Pausable, ReentrancyGuardTransient {
    using EpochTrace for EpochTrace.Trace;
    using SafeERC20 for IERC20;
    using TokenTransfers for IERC20;

    // ------------------------------------------------------------------ storage

    /// @dev First slot: all that a weight lookup needs but the stake. `activeUntil` is OPEN until an exit is asked for.
    struct Node {
        address owner;
        uint32 activeFrom;
        uint32 activeUntil;
        uint8 tier;
        bool retired;
        bool hasPast;
        bool hasBeneficiary;
        uint128 stake;
        uint64 unlockAt;
        bytes32 nodeKeyHash;
        address beneficiary;
        bytes32 capabilityHash;
    }

    /// @dev A closed, non-empty interval of activity, from an exit that was cancelled in a later epoch.
    struct Interval {
        uint32 from;
        uint32 until;
    }

    uint32 private constant OPEN = type(uint32).max;
    /// @notice Highest minimum stake that may be set, in wei.
    uint128 public constant MAX_MIN_STAKE = 1_000_000 ether;
    /// @notice Longest cooldown that may be set, in seconds; no epoch is longer.
    uint32 public constant MAX_COOLDOWN = 30 days;

    /// @inheritdoc INodeRegistryLocker
    IERC20 public immutable token;
    /// @inheritdoc INodeRegistryLocker
    uint64 public immutable GENESIS;
    /// @inheritdoc INodeRegistryLocker
    uint32 public immutable EPOCH_LENGTH;

    // Shares a slot with the authority and the paused flag.
    /// @inheritdoc INodeRegistryLocker
    uint32 public nodeCount;
    /// @inheritdoc INodeRegistryLocker
    uint32 public cooldown;
    /// @inheritdoc INodeRegistryLocker
    uint128 public minStake;

    mapping(uint32 nodeId => Node) private _nodes;
    mapping(uint32 nodeId => Interval[]) private _past;
    mapping(address key => uint32 nodeId) private _boundTo;
    EpochTrace.Trace private _totalWeight;

    // -------------------------------------------------------------- construction

    /// @param token_ the staked token, a plain ERC-20
    /// @param genesis unix time of epoch 0
    /// @param epochLength seconds an epoch, 1 to 30 days
    /// @param minStake_ minimum stake in wei
    /// @param cooldown_ seconds, at least one epoch: a stake outlasts every epoch that it counts in
    /// @param authority_ the AccessManager
    constructor(
        IERC20 token_,
        uint64 genesis,
        uint32 epochLength,
        uint128 minStake_,
        uint32 cooldown_,
        address authority_
    ) AccessManaged(authority_) {
        if (address(token_).code.length == 0) revert NotAContract("token", address(token_));
        if (genesis == 0) revert InvalidParameter("genesis", genesis, 1, type(uint64).max);
        if (epochLength == 0 || epochLength > MAX_COOLDOWN) {
            revert InvalidParameter("epochLength", epochLength, 1, MAX_COOLDOWN);
        }
        token = token_;
        GENESIS = genesis;
        EPOCH_LENGTH = epochLength;
        _setMinStake(minStake_);
        _setCooldown(cooldown_);
    }

    // --------------------------------------------------------------- registration

    /// @inheritdoc INodeRegistryLocker
    function registerNode(
        uint256 stakeAmount,
        uint8 hardwareTier,
        bytes32 nodeKeyHash
    ) external nonReentrant whenNotPaused returns (uint32 nodeId) {
        return _register(stakeAmount, hardwareTier, nodeKeyHash);
    }

    /// @inheritdoc INodeRegistryLocker
    function registerNodeWithPermit(
        uint256 stakeAmount,
        uint8 hardwareTier,
        bytes32 nodeKeyHash,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external nonReentrant whenNotPaused returns (uint32 nodeId) {
        token.tryPermit(stakeAmount, deadline, v, r, s);
        return _register(stakeAmount, hardwareTier, nodeKeyHash);
    }

    function _register(uint256 stakeAmount, uint8 tier, bytes32 nodeKeyHash) private returns (uint32 nodeId) {
        if (stakeAmount < minStake || stakeAmount > type(uint128).max) {
            revert StakeOutOfRange(stakeAmount, minStake, type(uint128).max);
        }
        uint256 multiplier = Tiers.multiplierBps(tier);
        if (multiplier == 0) revert InvalidTier(tier);
        nodeId = nodeCount + 1;
        if (nodeId > UptimeTree.MAX_NODE_ID) revert NodeLimitReached(UptimeTree.MAX_NODE_ID);
        nodeCount = nodeId;
        _bindKey(nodeId, msg.sender, nodeKeyHash);

        uint128 stake = uint128(stakeAmount);
        uint32 activeFrom = currentEpoch() + 1;
        Node storage node = _nodes[nodeId];
        node.owner = msg.sender;
        node.activeFrom = activeFrom;
        node.activeUntil = OPEN;
        node.tier = tier;
        node.stake = stake;
        node.nodeKeyHash = nodeKeyHash;
        emit NodeRegistered(nodeId, msg.sender, tier, stake, nodeKeyHash, activeFrom);
        _addTotalWeight(activeFrom, stakeAmount * multiplier);

        token.pullExact(msg.sender, stakeAmount);
    }

    // ----------------------------------------------------------------------- exit

    /// @inheritdoc INodeRegistryLocker
    function requestUnstake(uint32 nodeId) external {
        Node storage node = _ownedNode(nodeId);
        if (node.activeUntil != OPEN) revert WrongState(nodeId, _stateOf(node));
        uint32 activeUntil = currentEpoch() + 1;
        uint64 unlockAt = uint64(block.timestamp) + cooldown;
        node.activeUntil = activeUntil;
        node.unlockAt = unlockAt;
        emit UnstakeRequested(nodeId, activeUntil, unlockAt);
        _subTotalWeight(activeUntil, _fullWeight(node));
    }

    /// @inheritdoc INodeRegistryLocker
    function cancelUnstake(uint32 nodeId) external {
        Node storage node = _ownedNode(nodeId);
        uint32 until = node.activeUntil;
        if (until == OPEN || node.retired) revert WrongState(nodeId, _stateOf(node));
        uint32 next = currentEpoch() + 1;
        if (until != next) {
            // The interval has ended: keep it, unless it was empty, and begin another.
            uint32 from = node.activeFrom;
            if (from < until) {
                _past[nodeId].push(Interval(from, until));
                node.hasPast = true;
            }
            node.activeFrom = next;
        }
        node.activeUntil = OPEN;
        node.unlockAt = 0;
        emit UnstakeCancelled(nodeId, node.activeFrom);
        _addTotalWeight(next, _fullWeight(node));
    }

    /// @inheritdoc INodeRegistryLocker
    function withdrawStake(uint32 nodeId) external nonReentrant {
        Node storage node = _ownedNode(nodeId);
        uint64 unlockAt = node.unlockAt;
        if (unlockAt == 0 || node.retired) revert WrongState(nodeId, _stateOf(node));
        if (block.timestamp < unlockAt) revert StillCooling(nodeId, unlockAt, uint64(block.timestamp));
        node.retired = true;
        uint128 stake = node.stake;
        emit StakeWithdrawn(nodeId, msg.sender, stake);
        token.safeTransfer(msg.sender, stake);
    }

    // ------------------------------------------------------ keys, payout, capabilities

    /// @inheritdoc INodeRegistryLocker
    function setNodeKey(uint32 nodeId, bytes32 newKeyHash) external {
        Node storage node = _ownedNode(nodeId);
        if (node.retired) revert WrongState(nodeId, NodeState.Retired);
        _bindKey(nodeId, msg.sender, newKeyHash);
        emit NodeKeyRotated(nodeId, node.nodeKeyHash, newKeyHash);
        node.nodeKeyHash = newKeyHash;
    }

    /// @inheritdoc INodeRegistryLocker
    function setBeneficiary(uint32 nodeId, address beneficiary) external {
        Node storage node = _ownedNode(nodeId);
        node.beneficiary = beneficiary;
        node.hasBeneficiary = beneficiary != address(0);
        emit BeneficiarySet(nodeId, beneficiary);
    }

    /// @inheritdoc INodeRegistryLocker
    function setCapabilities(uint32 nodeId, bytes32 manifestHash, string calldata uri) external {
        _ownedNode(nodeId).capabilityHash = manifestHash;
        emit CapabilitiesSet(nodeId, manifestHash, uri);
    }

    // --------------------------------------------------------------- administration

    /// @inheritdoc INodeRegistryLocker
    function pause() external restricted {
        _pause();
    }

    /// @inheritdoc INodeRegistryLocker
    function unpause() external restricted {
        _unpause();
    }

    /// @inheritdoc INodeRegistryLocker
    function setMinStake(uint128 newMinStake) external restricted {
        _setMinStake(newMinStake);
    }

    /// @inheritdoc INodeRegistryLocker
    function setCooldown(uint32 newCooldown) external restricted {
        _setCooldown(newCooldown);
    }

    // ------------------------------------------------------------------------ views

    /// @inheritdoc INodeRegistryLocker
    function nodes(uint32 nodeId) external view returns (NodeView memory) {
        Node storage node = _nodes[nodeId];
        return
            NodeView({
                owner: node.owner,
                beneficiary: node.beneficiary,
                nodeKeyHash: node.nodeKeyHash,
                stake: node.stake,
                tier: node.tier,
                state: uint8(_stateOf(node)),
                activeFrom: node.activeFrom,
                activeUntil: node.activeUntil,
                unlockAt: node.unlockAt,
                capabilityHash: node.capabilityHash
            });
    }

    /// @inheritdoc INodeRegistryLocker
    function weightInputs(uint32 nodeId) external view returns (uint128 stake, uint8 tier, uint16 multiplierBps) {
        Node storage node = _nodes[nodeId];
        tier = node.tier;
        return (node.stake, tier, Tiers.multiplierBps(tier));
    }

    /// @inheritdoc INodeRegistryLocker
    function weightAt(uint32 nodeId, uint32 epoch) external view returns (uint256) {
        return _weightAt(nodeId, epoch);
    }

    /// @inheritdoc INodeRegistryLocker
    function totalWeightAt(uint32 epoch) external view returns (uint256) {
        return _totalWeightAt(epoch);
    }

    /// @inheritdoc INodeRegistryLocker
    function rewardInputs(
        uint32 nodeId,
        uint32 epoch
    ) external view returns (uint256 weight, uint256 totalWeight, address payout) {
        return (_weightAt(nodeId, epoch), _totalWeightAt(epoch), payoutAddress(nodeId));
    }

    /// @inheritdoc INodeRegistryLocker
    function nodeKeyAddress(uint32 nodeId) external view returns (address) {
        return _keyAddress(_nodes[nodeId].nodeKeyHash);
    }

    /// @inheritdoc INodeRegistryLocker
    function nodeOfKey(address key) external view returns (uint32) {
        uint32 nodeId = _boundTo[key];
        Node storage node = _nodes[nodeId];
        return node.retired || _keyAddress(node.nodeKeyHash) != key ? 0 : nodeId;
    }

    /// @inheritdoc INodeRegistryLocker
    function boundNodeOf(address key) external view returns (uint32) {
        return _boundTo[key];
    }

    /// @inheritdoc INodeRegistryLocker
    function payoutAddress(uint32 nodeId) public view returns (address) {
        Node storage node = _nodes[nodeId];
        return node.hasBeneficiary ? node.beneficiary : node.owner;
    }

    /// @inheritdoc INodeRegistryLocker
    function currentEpoch() public view returns (uint32) {
        return block.timestamp < GENESIS ? 0 : uint32((block.timestamp - GENESIS) / EPOCH_LENGTH);
    }

    /// @inheritdoc INodeRegistryLocker
    function epochStart(uint32 epoch) external view returns (uint64) {
        return GENESIS + uint64(epoch) * EPOCH_LENGTH;
    }

    // -------------------------------------------------------------------- internals

    function _ownedNode(uint32 nodeId) private view returns (Node storage node) {
        node = _nodes[nodeId];
        address owner = node.owner;
        if (owner == address(0)) revert UnknownNode(nodeId);
        if (owner != msg.sender) revert NotNodeOwner(nodeId, msg.sender, owner);
    }

    /// @dev A key stays bound to a node through rotations, and is free again once that node is retired.
    function _bindKey(uint32 nodeId, address owner, bytes32 nodeKeyHash) private {
        address key = _keyAddress(nodeKeyHash);
        if (key == address(0) || key == owner) revert InvalidNodeKey(nodeKeyHash);
        uint32 boundTo = _boundTo[key];
        if (boundTo != 0 && boundTo != nodeId && !_nodes[boundTo].retired) {
            revert NodeKeyInUse(nodeKeyHash, boundTo);
        }
        _boundTo[key] = nodeId;
    }

    function _keyAddress(bytes32 nodeKeyHash) private pure returns (address) {
        return address(uint160(uint256(nodeKeyHash)));
    }

    function _stateOf(Node storage node) private view returns (NodeState) {
        if (node.owner == address(0)) return NodeState.None;
        if (node.retired) return NodeState.Retired;
        if (node.activeUntil != OPEN) return NodeState.Cooling;
        return currentEpoch() < node.activeFrom ? NodeState.Idle : NodeState.Active;
    }

    function _fullWeight(Node storage node) private view returns (uint256) {
        return uint256(node.stake) * Tiers.multiplierBps(node.tier);
    }

    function _weightAt(uint32 nodeId, uint32 epoch) private view returns (uint256) {
        Node storage node = _nodes[nodeId];
        bool active = epoch >= node.activeFrom && epoch < node.activeUntil;
        if (!active && node.hasPast && epoch < node.activeFrom) active = _inPast(_past[nodeId], epoch);
        return active ? _fullWeight(node) : 0;
    }

    /// @dev Intervals are disjoint and in order: finds the last that begins at or before `epoch`.
    function _inPast(Interval[] storage past, uint32 epoch) private view returns (bool) {
        uint256 low = 0;
        uint256 high = past.length;
        while (low < high) {
            uint256 middle = (low + high) / 2;
            if (past[middle].from <= epoch) low = middle + 1;
            else high = middle;
        }
        return low != 0 && epoch < past[low - 1].until;
    }

    /// @dev Nothing is recorded beyond the next epoch.
    function _totalWeightAt(uint32 epoch) private view returns (uint256) {
        uint32 next = currentEpoch() + 1;
        return _totalWeight.get(epoch < next ? epoch : next);
    }

    /// @dev `epoch` is always the next one, so no later epoch has a total of its own.
    function _addTotalWeight(uint32 epoch, uint256 weight) private {
        _setTotalWeight(epoch, _totalWeight.get(epoch) + weight);
    }

    function _subTotalWeight(uint32 epoch, uint256 weight) private {
        _setTotalWeight(epoch, _totalWeight.get(epoch) - weight);
    }

    function _setTotalWeight(uint32 epoch, uint256 total) private {
        _totalWeight.set(epoch, total);
        emit TotalWeightChanged(epoch, total);
    }

    function _setMinStake(uint128 newMinStake) private {
        if (newMinStake == 0 || newMinStake > MAX_MIN_STAKE) {
            revert InvalidParameter("minStake", newMinStake, 1, MAX_MIN_STAKE);
        }
        minStake = newMinStake;
        emit MinStakeSet(newMinStake);
    }

    function _setCooldown(uint32 newCooldown) private {
        if (newCooldown < EPOCH_LENGTH || newCooldown > MAX_COOLDOWN) {
            revert InvalidParameter("cooldown", newCooldown, EPOCH_LENGTH, MAX_COOLDOWN);
        }
        cooldown = newCooldown;
        emit CooldownSet(newCooldown);
    }
}
