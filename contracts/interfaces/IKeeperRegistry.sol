// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @title Keeper registry
/// @notice Bonded keepers. The set of signers is versioned and frozen when an epoch begins: a membership change made in
/// epoch e takes effect at e + 1. A bond, unlike a node's principal, can be slashed: on proven equivocation, and when a
/// report is overruled by an appeal; always through a window in which a guardian may veto.
interface IKeeperRegistry {
    // ------------------------------------------------------------------ types

    /// @notice What `keepers` returns.
    /// @param operator who joined: may leave, list gateways, withdraw
    /// @param signer the key that signs reports; fixed while the keeper is in
    /// @param bond present bond in wei
    /// @param region free label, at most 32 bytes, such as "eu-west"
    /// @param activeFrom first epoch in whose set the keeper is
    /// @param activeUntil first epoch after it; type(uint32).max while it has not asked to leave
    /// @param unlockAt unix time from which the bond can be withdrawn; 0 while it has not asked to leave. Moves with pauses
    struct KeeperView {
        address operator;
        address signer;
        uint128 bond;
        bytes32 region;
        uint32 activeFrom;
        uint32 activeUntil;
        uint64 unlockAt;
    }

    /// @notice Why a bond is slashed.
    enum SlashReason {
        Equivocation,
        OverruledReport
    }

    /// @notice Where a slash stands. Only `Pending` ones change.
    enum SlashState {
        None,
        Pending,
        Vetoed,
        Executed
    }

    /// @notice What `slashes` returns.
    /// @param keeperId whose bond
    /// @param amount wei reserved for it when it was proposed
    /// @param executableAt unix time from which it can be executed, and until which it can be vetoed
    /// @param state a SlashState
    /// @param reason a SlashReason
    struct SlashView {
        uint32 keeperId;
        uint128 amount;
        uint64 executableAt;
        uint8 state;
        uint8 reason;
    }

    // ----------------------------------------------------------------- events

    /// @notice A keeper joined with a bond.
    event KeeperJoined(
        uint32 indexed keeperId,
        address indexed operator,
        address indexed signer,
        uint128 bond,
        bytes32 region,
        string url,
        uint32 activeFrom
    );
    /// @notice A keeper asked to leave.
    event KeeperLeaving(uint32 indexed keeperId, uint32 activeUntil, uint64 unlockAt);
    /// @notice What was left of a bond went back.
    event BondWithdrawn(uint32 indexed keeperId, uint128 amount);
    /// @notice The keeper vouches for a gateway's ticket key.
    event GatewayListed(uint32 indexed keeperId, address indexed signer, string url);
    /// @notice The keeper no longer vouches for it.
    event GatewayRemoved(uint32 indexed keeperId, address indexed signer);
    /// @notice The signer set from `fromEpoch` on.
    event KeeperSetChanged(uint32 indexed fromEpoch, uint256 version, bytes32 digest, address[] signers);
    /// @notice A slash was proposed: `amount` of the bond is reserved until it is vetoed or executed.
    event SlashProposed(
        uint256 indexed slashId,
        uint32 indexed keeperId,
        uint32 indexed epoch,
        SlashReason reason,
        uint128 amount,
        uint64 executableAt
    );
    /// @notice A guardian vetoed a slash; the reserved part is free again.
    event SlashVetoed(uint256 indexed slashId, uint32 indexed keeperId);
    /// @notice A slash was executed.
    event SlashExecuted(uint256 indexed slashId, uint32 indexed keeperId, uint128 amount);
    /// @notice A slashed keeper's bond fell below half the minimum: it left the set with the end of the epoch.
    event KeeperEjected(uint32 indexed keeperId, uint32 activeUntil);
    /// @notice What was slashed was collected.
    event SlashedCollected(address indexed to, uint256 amount);
    /// @notice Slashes proposed from now on can be vetoed for this many seconds.
    event VetoWindowSet(uint32 vetoWindow);
    /// @notice Minimum bond of joins from now on.
    event MinBondSet(uint128 minBond);
    /// @notice The attestation contract was wired, once.
    event AttestationSet(address attestation);

    // ----------------------------------------------------------------- errors

    /// @notice A constructor argument or parameter is outside its bound.
    error InvalidParameter(bytes32 name, uint256 value, uint256 min, uint256 max);
    /// @notice The address that a constructor argument names has no code.
    error NotAContract(bytes32 name, address account);
    /// @notice The bond is below the minimum, or above what a uint128 holds.
    error BondOutOfRange(uint256 bond, uint256 min, uint256 max);
    /// @notice The signer is zero or was used by a keeper before.
    error InvalidSigner(address signer);
    /// @notice The set of the next epoch is full.
    error KeeperSetFull(uint256 limit);
    /// @notice There is no such keeper.
    error UnknownKeeper(uint32 keeperId);
    /// @notice Only the keeper's operator may do this.
    error NotKeeperOperator(uint32 keeperId, address caller, address operator);
    /// @notice The keeper has already asked to leave.
    error AlreadyLeaving(uint32 keeperId);
    /// @notice The keeper has not asked to leave.
    error NotLeaving(uint32 keeperId);
    /// @notice The leave delay is not over.
    error BondLocked(uint32 keeperId, uint64 unlockAt, uint64 nowAt);
    /// @notice Nothing of the bond is left to withdraw.
    error NothingToWithdraw(uint32 keeperId);
    /// @notice The gateway key is zero or listed by another keeper.
    error InvalidGateway(address signer, uint32 keeperId);
    /// @notice Only the attestation contract may do this.
    error NotAttestation(address caller);
    /// @notice The slash is not pending.
    error WrongSlashState(uint256 slashId, SlashState state);
    /// @notice The veto window is not over.
    error VetoWindowOpen(uint256 slashId, uint64 executableAt, uint64 nowAt);
    /// @notice The veto window is over.
    error VetoWindowClosed(uint256 slashId, uint64 executableAt, uint64 nowAt);
    /// @notice An address must not be zero.
    error ZeroAddress();
    /// @notice The attestation contract is already wired, or its windows do not fit the leave delay.
    error InvalidAttestation(address attestation);

    // ---------------------------------------------------------- operator's calls

    /// @notice Joins with `bond` from the caller, in the set from the next epoch.
    /// @param bond wei, at least `minBond`
    /// @param signer key that signs reports; never used by another keeper
    /// @param region label, part of the rule that misses must come from different regions
    /// @param url base URL of the keeper's API
    /// @return keeperId sequential from 1
    function join(uint128 bond, address signer, bytes32 region, string calldata url) external returns (uint32 keeperId);

    /// @notice `join` with an ERC-2612 permit for exactly `bond`.
    function joinWithPermit(
        uint128 bond,
        address signer,
        bytes32 region,
        string calldata url,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external returns (uint32 keeperId);

    /// @notice Leaves the set with the end of this epoch; the bond stays locked for the leave delay.
    function requestLeave(uint32 keeperId) external;

    /// @notice Returns what is left of the bond, and is not reserved for a pending slash, to the operator. Never paused;
    /// after a veto it can be called again.
    function withdrawBond(uint32 keeperId) external;

    /// @notice Lists a gateway: nodes take tickets that this key signs while its keeper is active.
    function setGateway(uint32 keeperId, address gatewaySigner, string calldata url) external;

    /// @notice Takes a gateway off the list.
    function removeGateway(uint32 keeperId, address gatewaySigner) external;

    // ---------------------------------------------------------------------- slashing

    /// @notice Proposes to slash signers of an epoch's set. Only the attestation contract calls it, having checked the
    /// evidence. Never reverts for lack of bond: what is not there is not taken.
    /// @param epoch the epoch whose set the bitmap refers to
    /// @param signerBitmap bit i: signer i of that set
    /// @param reason decides the part: all of the bond for equivocation, OVERRULED_BPS of it for an overruled report
    function proposeSlash(uint32 epoch, uint256 signerBitmap, SlashReason reason) external;

    /// @notice Executes a slash after its veto window. Anybody may send it.
    function executeSlash(uint256 slashId) external;

    /// @notice Vetoes a slash within its window.
    function vetoSlash(uint256 slashId) external;

    // ------------------------------------------------------------ administration

    /// @notice Sends what was slashed to `to`.
    function collectSlashed(address to) external;

    /// @notice Sets the veto window of later slashes, in seconds; from one epoch to 30 days.
    function setVetoWindow(uint32 newVetoWindow) external;

    /// @notice Wires the attestation contract, once. Its windows must end before a leaving keeper's bond is free.
    function setAttestation(address attestation) external;

    /// @notice Sets the minimum bond of later joins.
    function setMinBond(uint128 newMinBond) external;

    // -------------------------------------------------------------------- views

    /// @notice Everything about one keeper; all zero for an unknown id.
    function keepers(uint32 keeperId) external view returns (KeeperView memory);

    /// @notice Number of keepers that ever joined, which is the highest id.
    function keeperCount() external view returns (uint32);

    /// @notice The keeper that signs with this key, or 0.
    function keeperOfSigner(address signer) external view returns (uint32);

    /// @notice Signers of `epoch` in their frozen order; the index is the position in a report's bitmap.
    function signersAt(uint32 epoch) external view returns (address[] memory);

    /// @notice floor(2n / 3) + 1 of the n signers of `epoch`.
    function quorumAt(uint32 epoch) external view returns (uint256);

    /// @notice keccak256(abi.encode(uint256 version, address[] signers)) of `epoch`'s set.
    function setDigestAt(uint32 epoch) external view returns (bytes32);

    /// @notice The three above in one call.
    function setAt(uint32 epoch) external view returns (address[] memory signers, uint256 quorum, bytes32 digest);

    /// @notice What a quorum check needs: only the signers that the bitmap names, in rising order of index. Bits beyond the set
    /// name nobody; the caller compares with `size`.
    function signersIn(
        uint32 epoch,
        uint256 signerBitmap
    ) external view returns (address[] memory signers, uint256 size, uint256 quorum, bytes32 digest);

    /// @notice Version number of `epoch`'s set; it only grows.
    function setVersionAt(uint32 epoch) external view returns (uint256);

    /// @notice A slash by id; ids go from 1.
    function slashes(uint256 slashId) external view returns (SlashView memory);

    /// @notice Number of slashes ever proposed, which is the highest id.
    function slashCount() external view returns (uint256);

    /// @notice Wei of a keeper's bond that pending slashes reserve.
    function reservedOf(uint32 keeperId) external view returns (uint128);

    /// @notice Wei slashed and not collected.
    function slashedBalance() external view returns (uint256);

    /// @notice Seconds in which a slash can be vetoed.
    function vetoWindow() external view returns (uint32);

    /// @notice Whether an active keeper lists this gateway key.
    function isGateway(address signer) external view returns (bool);

    /// @notice The keeper that lists this gateway key, or 0.
    function gatewayKeeper(address signer) external view returns (uint32);

    /// @notice Minimum bond of a join, in wei.
    function minBond() external view returns (uint128);

    /// @notice Seconds from `requestLeave` to `withdrawBond`, pauses of the attestation not counted.
    function LEAVE_DELAY() external view returns (uint32);

    /// @notice The bonded token.
    function token() external view returns (IERC20);

    /// @notice The attestation contract, zero before it is wired.
    function attestation() external view returns (address);
}
