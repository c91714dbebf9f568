// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {INodeRegistryLocker} from "./INodeRegistryLocker.sol";
import {IUptimeAttestation} from "./IUptimeAttestation.sol";

/// @title Reward distributor
/// @notice Holds the pools of all epochs and pays
///
///     reward = floor(pool(e) x weight(node, e) x uptime(node, e) / (10,000 x totalWeight(e)))
///
/// once per node and epoch, after the epoch's report is final. The denominator is the checkpointed total weight and not an
/// attested sum: nobody earns more because somebody else was reported down, and no report can pay more than the pool.
/// A pool is emission(e) + fees funded before e began, and is frozen once e begins.
interface IRewardDistributor {
    // ------------------------------------------------------------------ types

    /// @notice One entry of `claimMany`.
    struct Claim {
        uint32 nodeId;
        uint32 epoch;
        bytes32 packedLeaf;
        bytes32[13] proof;
    }

    // ----------------------------------------------------------------- events

    /// @notice `total` is emitted linearly over `epochs` epochs from `startEpoch` on.
    event EmissionScheduled(uint256 total, uint32 startEpoch, uint32 epochs);
    /// @notice Fees were added to the pool of `epoch`.
    event Funded(uint32 indexed epoch, address indexed from, uint256 amount);
    /// @notice A node's reward was paid to its payout address.
    event RewardClaimed(
        uint32 indexed nodeId,
        uint32 indexed epoch,
        address indexed to,
        uint256 amount,
        uint16 uptimeBps
    );
    /// @notice The pool of a lapsed epoch was added to a coming one.
    event PoolRolledOver(uint32 indexed fromEpoch, uint32 indexed toEpoch, uint256 amount);
    /// @notice What was unclaimed and unearned of a pool went to the reserve.
    event EpochSwept(uint32 indexed epoch, uint256 amount);
    /// @notice Another address receives sweeps from now on.
    event ReserveSet(address reserve);

    // ----------------------------------------------------------------- errors

    /// @notice A constructor argument, or the number of epochs of a schedule, is outside its bound.
    error InvalidParameter(bytes32 name, uint256 value, uint256 min, uint256 max);
    /// @notice The address that a constructor argument names has no code.
    error NotAContract(bytes32 name, address account);
    /// @notice An address must not be zero.
    error ZeroAddress();
    /// @notice An amount must not be zero.
    error ZeroAmount();
    /// @notice The amount does not fit the books.
    error AmountTooLarge(uint256 amount, uint256 max);
    /// @notice A schedule must start after the present epoch and after the last schedule's end.
    error ScheduleOverlaps(uint32 startEpoch, uint32 earliest);
    /// @notice The epoch is not final.
    error EpochNotFinal(uint32 epoch, IUptimeAttestation.EpochStatus status);
    /// @notice Only the pool of a lapsed epoch rolls over.
    error EpochNotLapsed(uint32 epoch, IUptimeAttestation.EpochStatus status);
    /// @notice The node has no weight in this epoch.
    error NoWeight(uint32 nodeId, uint32 epoch);
    /// @notice This node and epoch were paid.
    error AlreadyClaimed(uint32 nodeId, uint32 epoch);
    /// @notice The claim deadline has passed.
    error ClaimExpired(uint32 epoch, uint64 deadline, uint64 nowAt);
    /// @notice The claim deadline has not passed.
    error ClaimStillOpen(uint32 epoch, uint64 deadline, uint64 nowAt);
    /// @notice The pool was rolled over or swept.
    error EpochSettled(uint32 epoch);

    // ------------------------------------------------------------------- calls

    /// @notice Pays a node's reward for one epoch to its payout address. Anybody may send it.
    /// @return amount wei paid, 0 if the uptime is 0
    function claim(
        uint32 nodeId,
        uint32 epoch,
        bytes32 packedLeaf,
        bytes32[13] calldata proof
    ) external returns (uint256 amount);

    /// @notice Many claims at once, of any nodes and epochs. One that fails reverts all.
    /// @return amount wei paid in all
    function claimMany(Claim[] calldata claims) external returns (uint256 amount);

    /// @notice Adds `amount` from the caller to the pool of the next epoch.
    function fund(uint256 amount) external;

    /// @notice Moves the pool of a lapsed epoch to the next one. Anybody may send it.
    function rollover(uint32 lapsedEpoch) external;

    /// @notice Sends what is left of an epoch's pool after its claim deadline to the reserve. Anybody may send it.
    function sweep(uint32 epoch) external;

    // ------------------------------------------------------------ administration

    /// @notice Takes `total` from the caller and emits it linearly: epoch startEpoch + i gets
    /// floor(total (i + 1) / epochs) - floor(total i / epochs), which sums to `total` exactly.
    function scheduleEmission(uint256 total, uint32 startEpoch, uint32 epochs) external;

    /// @notice Sets where sweeps go.
    function setReserve(address newReserve) external;

    // -------------------------------------------------------------------- views

    /// @notice What `claim` would pay now; reverts as it would.
    function earned(
        uint32 nodeId,
        uint32 epoch,
        bytes32 packedLeaf,
        bytes32[13] calldata proof
    ) external view returns (uint256 amount);

    /// @notice Emission and fees of `epoch`; does not change once it has begun.
    function poolOf(uint32 epoch) external view returns (uint256);

    /// @notice Emission of `epoch` alone.
    function emissionOf(uint32 epoch) external view returns (uint256);

    /// @notice Wei paid of `epoch`'s pool.
    function paidOf(uint32 epoch) external view returns (uint256);

    /// @notice Whether this node and epoch were paid.
    function claimed(uint32 nodeId, uint32 epoch) external view returns (bool);

    /// @notice Whether the pool was rolled over or swept.
    function settled(uint32 epoch) external view returns (bool);

    /// @notice Unix time until which (inclusive) an epoch can be claimed from; 0 while it has no report.
    function claimDeadline(uint32 epoch) external view returns (uint64);

    /// @notice Seconds from `finalAt` to the claim deadline.
    function CLAIM_WINDOW() external view returns (uint32);

    /// @notice Where sweeps go.
    function reserve() external view returns (address);

    /// @notice The token that is paid.
    function token() external view returns (IERC20);

    /// @notice The node registry.
    function nodes() external view returns (INodeRegistryLocker);

    /// @notice The attestation contract.
    function attestation() external view returns (IUptimeAttestation);
}
