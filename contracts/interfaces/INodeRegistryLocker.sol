// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @title Node registry and stake locker
/// @notice One stake is one node. Principal is locked at registration, never taken by anybody, and returned whole to its
/// owner after the cooldown. A node's weight (stake x tier multiplier) is fixed for life, so its history is the list of
/// intervals in which it was active; only the total weight is checkpointed.
/// @dev Assumptions on the token: a plain ERC-20. Tokens that take a fee on transfer are rejected at registration; tokens
/// whose balances change on their own are not supported.
///
/// Times: epoch e covers [GENESIS + e * EPOCH_LENGTH, GENESIS + (e + 1) * EPOCH_LENGTH). A change made during epoch e
/// takes effect at e + 1, for the node and for the total alike.
interface INodeRegistryLocker {
    // ------------------------------------------------------------------ types

    /// @notice Where a node is in its life. Only `Active` earns; a `Cooling` node still earns to the end of the epoch in
    /// which it asked to leave.
    enum NodeState {
        None,
        Idle,
        Active,
        Cooling,
        Retired
    }

    /// @notice What `nodes` returns.
    /// @param owner cold key: stake and exit
    /// @param beneficiary who is paid, as set; zero means the owner
    /// @param nodeKeyHash keccak256 of the node key's 64-byte public key; its last 20 bytes are the key's address
    /// @param stake principal locked at registration, in wei; kept after withdrawal, as past weights depend on it
    /// @param tier declared hardware tier, 1 to 4
    /// @param state a NodeState
    /// @param activeFrom first epoch of the present active interval
    /// @param activeUntil first epoch after it; type(uint32).max while no exit was asked for
    /// @param unlockAt unix time from which `withdrawStake` succeeds; 0 while no exit was asked for
    /// @param capabilityHash hash of the capability manifest, or zero
    struct NodeView {
        address owner;
        address beneficiary;
        bytes32 nodeKeyHash;
        uint128 stake;
        uint8 tier;
        uint8 state;
        uint32 activeFrom;
        uint32 activeUntil;
        uint64 unlockAt;
        bytes32 capabilityHash;
    }

    // ----------------------------------------------------------------- events

    /// @notice A node was registered and its principal locked.
    event NodeRegistered(
        uint32 indexed nodeId,
        address indexed owner,
        uint8 tier,
        uint128 stake,
        bytes32 nodeKeyHash,
        uint32 activeFrom
    );
    /// @notice The owner asked to leave: the node is inactive from epoch `activeUntil`, its stake free at `unlockAt`.
    event UnstakeRequested(uint32 indexed nodeId, uint32 activeUntil, uint64 unlockAt);
    /// @notice The exit was called off: the node is active from epoch `activeFrom`.
    event UnstakeCancelled(uint32 indexed nodeId, uint32 activeFrom);
    /// @notice The principal went back, whole.
    event StakeWithdrawn(uint32 indexed nodeId, address indexed owner, uint128 stake);
    /// @notice Another key signs for the node from now on.
    event NodeKeyRotated(uint32 indexed nodeId, bytes32 oldKeyHash, bytes32 newKeyHash);
    /// @notice Another address is paid from now on (zero: the owner).
    event BeneficiarySet(uint32 indexed nodeId, address beneficiary);
    /// @notice The node's capability manifest: hash of its canonical JSON, and where to read it.
    event CapabilitiesSet(uint32 indexed nodeId, bytes32 manifestHash, string uri);
    /// @notice Total weight from `epoch` on.
    event TotalWeightChanged(uint32 indexed epoch, uint256 totalWeight);
    /// @notice Minimum stake of registrations from now on.
    event MinStakeSet(uint128 minStake);
    /// @notice Cooldown of exits asked for from now on.
    event CooldownSet(uint32 cooldown);

    // ----------------------------------------------------------------- errors

    /// @notice A constructor argument or parameter is outside its bound.
    error InvalidParameter(bytes32 name, uint256 value, uint256 min, uint256 max);
    /// @notice The address that a constructor argument names has no code.
    error NotAContract(bytes32 name, address account);
    /// @notice The stake is below the minimum, or above what a uint128 holds.
    error StakeOutOfRange(uint256 stake, uint256 min, uint256 max);
    /// @notice Tiers are 1 to 4.
    error InvalidTier(uint8 tier);
    /// @notice The key's address is zero, or is the owner's wallet.
    error InvalidNodeKey(bytes32 nodeKeyHash);
    /// @notice The key serves, or served, another node that is not retired.
    error NodeKeyInUse(bytes32 nodeKeyHash, uint32 nodeId);
    /// @notice All node ids are given out.
    error NodeLimitReached(uint32 limit);
    /// @notice There is no such node.
    error UnknownNode(uint32 nodeId);
    /// @notice Only the node's owner may do this.
    error NotNodeOwner(uint32 nodeId, address caller, address owner);
    /// @notice The call does not fit the node's state.
    error WrongState(uint32 nodeId, NodeState state);
    /// @notice The cooldown is not over.
    error StillCooling(uint32 nodeId, uint64 unlockAt, uint64 nowAt);

    // ------------------------------------------------------------ owner's calls

    /// @notice Locks `stakeAmount` from the caller behind a new node, active from the next epoch.
    /// @param stakeAmount principal in wei; fixed for the node's life
    /// @param hardwareTier 1 to 4; fixed for the node's life
    /// @param nodeKeyHash keccak256 of the node key's 64-byte public key
    /// @return nodeId sequential from 1
    function registerNode(
        uint256 stakeAmount,
        uint8 hardwareTier,
        bytes32 nodeKeyHash
    ) external returns (uint32 nodeId);

    /// @notice `registerNode` with an ERC-2612 permit for exactly `stakeAmount`. A permit that somebody else sent first
    /// does no harm: the allowance decides.
    function registerNodeWithPermit(
        uint256 stakeAmount,
        uint8 hardwareTier,
        bytes32 nodeKeyHash,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external returns (uint32 nodeId);

    /// @notice Ends the node's activity with this epoch and starts the cooldown.
    function requestUnstake(uint32 nodeId) external;

    /// @notice Calls the exit off. Within the epoch of the request it is as if nothing had happened; later, the node is
    /// active again from the next epoch.
    function cancelUnstake(uint32 nodeId) external;

    /// @notice Returns exactly the principal to the owner, once, after the cooldown. Never paused.
    function withdrawStake(uint32 nodeId) external;

    /// @notice Replaces the node key. Keys that a live node has ever used stay bound to it.
    function setNodeKey(uint32 nodeId, bytes32 newKeyHash) external;

    /// @notice Sets who is paid; zero means the owner.
    function setBeneficiary(uint32 nodeId, address beneficiary) external;

    /// @notice Publishes the capability manifest's hash and address.
    function setCapabilities(uint32 nodeId, bytes32 manifestHash, string calldata uri) external;

    // ------------------------------------------------------------ administration

    /// @notice Stops new registrations. Nothing else.
    function pause() external;

    /// @notice Allows registrations again.
    function unpause() external;

    /// @notice Sets the minimum stake of later registrations; from 1 wei to MAX_MIN_STAKE.
    function setMinStake(uint128 newMinStake) external;

    /// @notice Sets the cooldown of later exits, in seconds; from EPOCH_LENGTH to 30 days.
    function setCooldown(uint32 newCooldown) external;

    // -------------------------------------------------------------------- views

    /// @notice Everything about one node; all zero for an unknown id.
    function nodes(uint32 nodeId) external view returns (NodeView memory);

    /// @notice What the node's weight is made of.
    function weightInputs(uint32 nodeId) external view returns (uint128 stake, uint8 tier, uint16 multiplierBps);

    /// @notice stake x multiplier (wei x bps) if the node is active in `epoch`, otherwise 0.
    function weightAt(uint32 nodeId, uint32 epoch) external view returns (uint256);

    /// @notice Sum of all nodes' weights in `epoch`.
    function totalWeightAt(uint32 epoch) external view returns (uint256);

    /// @notice `weightAt`, `totalWeightAt` and `payoutAddress` in one call.
    function rewardInputs(
        uint32 nodeId,
        uint32 epoch
    ) external view returns (uint256 weight, uint256 totalWeight, address payout);

    /// @notice Address of the node's present key; zero for an unknown id.
    function nodeKeyAddress(uint32 nodeId) external view returns (address);

    /// @notice The live node whose present key this is, or 0.
    function nodeOfKey(address key) external view returns (uint32);

    /// @notice The node to which this key is or was bound, or 0: evidence signed before a rotation stays good.
    function boundNodeOf(address key) external view returns (uint32);

    /// @notice Beneficiary, or the owner if none is set; zero for an unknown id.
    function payoutAddress(uint32 nodeId) external view returns (address);

    /// @notice Number of nodes ever registered, which is the highest id.
    function nodeCount() external view returns (uint32);

    /// @notice The epoch of this block; 0 before GENESIS.
    function currentEpoch() external view returns (uint32);

    /// @notice Unix time at which `epoch` begins.
    function epochStart(uint32 epoch) external view returns (uint64);

    /// @notice Unix time of epoch 0.
    function GENESIS() external view returns (uint64);

    /// @notice Seconds an epoch.
    function EPOCH_LENGTH() external view returns (uint32);

    /// @notice Minimum stake of a registration, in wei.
    function minStake() external view returns (uint128);

    /// @notice Seconds from `requestUnstake` to `withdrawStake`.
    function cooldown() external view returns (uint32);

    /// @notice The staked token.
    function token() external view returns (IERC20);
}
