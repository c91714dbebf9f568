// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {AccessManaged} from "@openzeppelin/contracts/access/manager/AccessManaged.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {KeeperSets} from "./base/KeeperSets.sol";
import {IKeeperRegistry} from "./interfaces/IKeeperRegistry.sol";
import {INodeRegistryLocker} from "./interfaces/INodeRegistryLocker.sol";
import {IUptimeAttestation} from "./interfaces/IUptimeAttestation.sol";
import {TokenTransfers} from "./libraries/TokenTransfers.sol";

/// @title Keeper registry
contract KeeperRegistry is IKeeperRegistry, KeeperSets, AccessManaged, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using TokenTransfers for IERC20;

    // ------------------------------------------------------------------ storage

    /// @dev `unlockActive` is in active time of the attestation's clock; 0 until the keeper asks to leave.
    struct Keeper {
        address operator;
        uint32 activeFrom;
        uint32 activeUntil;
        address signer;
        uint64 unlockActive;
        uint128 bond;
        uint128 reserved;
        bytes32 region;
    }

    struct Slash {
        uint32 keeperId;
        uint64 executableAt;
        uint128 amount;
        SlashState state;
        SlashReason reason;
    }

    uint32 private constant OPEN = type(uint32).max;
    /// @notice Part of the bond that the signers of an overruled report lose, in basis points.
    uint256 public constant OVERRULED_BPS = 1_000;
    /// @notice Longest veto window that may be set, in seconds; no epoch is longer.
    uint32 public constant MAX_VETO_WINDOW = 30 days;
    uint256 private constant BPS = 10_000;

    /// @inheritdoc IKeeperRegistry
    IERC20 public immutable token;
    /// @notice The registry whose epochs count.
    INodeRegistryLocker public immutable epochs;
    /// @inheritdoc IKeeperRegistry
    uint32 public immutable LEAVE_DELAY;

    /// @inheritdoc IKeeperRegistry
    address public attestation;
    /// @inheritdoc IKeeperRegistry
    uint32 public keeperCount;
    /// @inheritdoc IKeeperRegistry
    uint32 public vetoWindow;
    /// @inheritdoc IKeeperRegistry
    uint128 public minBond;
    /// @inheritdoc IKeeperRegistry
    uint256 public slashedBalance;
    /// @inheritdoc IKeeperRegistry
    uint256 public slashCount;

    mapping(uint32 keeperId => Keeper) private _keepers;
    /// @inheritdoc IKeeperRegistry
    mapping(address signer => uint32 keeperId) public keeperOfSigner;
    mapping(address gateway => uint32 keeperId) private _gateways;
    mapping(uint256 slashId => Slash) private _slashes;
    // -------------------------------------------------------------- construction

    /// @param token_ the bonded token, a plain ERC-20
    /// @param epochs_ the registry whose epochs count
    /// @param minBond_ minimum bond in wei
    /// @param leaveDelay seconds of active time that a leaving keeper's bond stays slashable, at most 365 days
    /// @param authority_ the AccessManager
    constructor(
        IERC20 token_,
        INodeRegistryLocker epochs_,
        uint128 minBond_,
        uint32 leaveDelay,
        address authority_
    ) AccessManaged(authority_) {
        if (address(token_).code.length == 0) revert NotAContract("token", address(token_));
        uint32 epochLength = epochs_.EPOCH_LENGTH();
        if (leaveDelay < epochLength || leaveDelay > 365 days) {
            revert InvalidParameter("leaveDelay", leaveDelay, epochLength, 365 days);
        }
        token = token_;
        epochs = epochs_;
        LEAVE_DELAY = leaveDelay;
        _setMinBond(minBond_);
        _setVetoWindow(epochLength);
    }

    // ------------------------------------------------------------- joining, leaving

    /// @inheritdoc IKeeperRegistry
    function join(
        uint128 bond,
        address signer,
        bytes32 region,
        string calldata url
    ) external restricted nonReentrant returns (uint32 keeperId) {
        return _join(bond, signer, region, url);
    }

    /// @inheritdoc IKeeperRegistry
    function joinWithPermit(
        uint128 bond,
        address signer,
        bytes32 region,
        string calldata url,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external restricted nonReentrant returns (uint32 keeperId) {
        token.tryPermit(bond, deadline, v, r, s);
        return _join(bond, signer, region, url);
    }

    function _join(
        uint128 bond,
        address signer,
        bytes32 region,
        string calldata url
    ) private returns (uint32 keeperId) {
        if (bond < minBond) revert BondOutOfRange(bond, minBond, type(uint128).max);
        if (signer == address(0) || keeperOfSigner[signer] != 0) revert InvalidSigner(signer);
        keeperId = ++keeperCount;
        keeperOfSigner[signer] = keeperId;
        uint32 activeFrom = epochs.currentEpoch() + 1;
        _keepers[keeperId] = Keeper({
            operator: msg.sender,
            activeFrom: activeFrom,
            activeUntil: OPEN,
            signer: signer,
            unlockActive: 0,
            bond: bond,
            reserved: 0,
            region: region
        });
        emit KeeperJoined(keeperId, msg.sender, signer, bond, region, url, activeFrom);
        _addSigner(activeFrom, signer);

        token.pullExact(msg.sender, bond);
    }

    /// @inheritdoc IKeeperRegistry
    function requestLeave(uint32 keeperId) external {
        Keeper storage keeper = _operatedKeeper(keeperId);
        if (keeper.activeUntil != OPEN) revert AlreadyLeaving(keeperId);
        _leave(keeperId, keeper);
    }

    /// @inheritdoc IKeeperRegistry
    function withdrawBond(uint32 keeperId) external nonReentrant {
        Keeper storage keeper = _operatedKeeper(keeperId);
        uint64 unlockActive = keeper.unlockActive;
        if (unlockActive == 0) revert NotLeaving(keeperId);
        if (_activeNow() < unlockActive) {
            revert BondLocked(keeperId, _unlockAt(keeper), uint64(block.timestamp));
        }
        uint128 reserved = keeper.reserved;
        uint128 amount = keeper.bond - reserved;
        if (amount == 0) revert NothingToWithdraw(keeperId);
        keeper.bond = reserved;
        emit BondWithdrawn(keeperId, amount);
        token.safeTransfer(msg.sender, amount);
    }

    // --------------------------------------------------------------------- gateways

    /// @inheritdoc IKeeperRegistry
    function setGateway(uint32 keeperId, address gatewaySigner, string calldata url) external {
        Keeper storage keeper = _operatedKeeper(keeperId);
        if (keeper.activeUntil != OPEN) revert AlreadyLeaving(keeperId);
        uint32 listedBy = _gateways[gatewaySigner];
        bool taken = listedBy != 0 && listedBy != keeperId && _keepers[listedBy].activeUntil == OPEN;
        if (gatewaySigner == address(0) || taken) revert InvalidGateway(gatewaySigner, listedBy);
        _gateways[gatewaySigner] = keeperId;
        emit GatewayListed(keeperId, gatewaySigner, url);
    }

    /// @inheritdoc IKeeperRegistry
    function removeGateway(uint32 keeperId, address gatewaySigner) external {
        _operatedKeeper(keeperId);
        uint32 listedBy = _gateways[gatewaySigner];
        if (listedBy != keeperId) revert InvalidGateway(gatewaySigner, listedBy);
        delete _gateways[gatewaySigner];
        emit GatewayRemoved(keeperId, gatewaySigner);
    }

    // --------------------------------------------------------------------- slashing

    /// @inheritdoc IKeeperRegistry
    function proposeSlash(uint32 epoch, uint256 signerBitmap, SlashReason reason) external {
        if (msg.sender != attestation) revert NotAttestation(msg.sender);
        address[] storage signers = _signersOf(epoch);
        uint64 executableAt = uint64(block.timestamp) + vetoWindow;
        for (uint256 i = 0; signerBitmap != 0; ++i) {
            if (signerBitmap & 1 != 0) _propose(keeperOfSigner[signers[i]], epoch, reason, executableAt);
            signerBitmap >>= 1;
        }
    }

    /// @dev Reserves the part, rounded up, or what other slashes have left of the bond.
    function _propose(uint32 keeperId, uint32 epoch, SlashReason reason, uint64 executableAt) private {
        Keeper storage keeper = _keepers[keeperId];
        uint256 part = reason == SlashReason.Equivocation ? BPS : OVERRULED_BPS;
        uint256 requested = Math.mulDiv(keeper.bond, part, BPS, Math.Rounding.Ceil);
        uint128 amount = uint128(Math.min(requested, keeper.bond - keeper.reserved));
        keeper.reserved += amount;
        uint256 slashId = ++slashCount;
        _slashes[slashId] = Slash(keeperId, executableAt, amount, SlashState.Pending, reason);
        emit SlashProposed(slashId, keeperId, epoch, reason, amount, executableAt);
    }

    /// @inheritdoc IKeeperRegistry
    function executeSlash(uint256 slashId) external {
        Slash storage slash = _pendingSlash(slashId);
        if (block.timestamp < slash.executableAt) {
            revert VetoWindowOpen(slashId, slash.executableAt, uint64(block.timestamp));
        }
        slash.state = SlashState.Executed;
        uint32 keeperId = slash.keeperId;
        uint128 amount = slash.amount;
        Keeper storage keeper = _keepers[keeperId];
        keeper.reserved -= amount;
        keeper.bond -= amount; // the reserved part is never above the bond
        slashedBalance += amount;
        emit SlashExecuted(slashId, keeperId, amount);
        if (keeper.activeUntil == OPEN && keeper.bond < minBond / 2) {
            _leave(keeperId, keeper);
            emit KeeperEjected(keeperId, keeper.activeUntil);
        }
    }

    /// @inheritdoc IKeeperRegistry
    function vetoSlash(uint256 slashId) external restricted {
        Slash storage slash = _pendingSlash(slashId);
        if (block.timestamp >= slash.executableAt) {
            revert VetoWindowClosed(slashId, slash.executableAt, uint64(block.timestamp));
        }
        slash.state = SlashState.Vetoed;
        _keepers[slash.keeperId].reserved -= slash.amount;
        emit SlashVetoed(slashId, slash.keeperId);
    }

    // --------------------------------------------------------------- administration

    /// @inheritdoc IKeeperRegistry
    function collectSlashed(address to) external restricted nonReentrant {
        if (to == address(0)) revert ZeroAddress();
        uint256 amount = slashedBalance;
        slashedBalance = 0;
        emit SlashedCollected(to, amount);
        token.safeTransfer(to, amount);
    }

    /// @inheritdoc IKeeperRegistry
    function setVetoWindow(uint32 newVetoWindow) external restricted {
        _setVetoWindow(newVetoWindow);
    }

    /// @inheritdoc IKeeperRegistry
    function setAttestation(address newAttestation) external restricted {
        if (attestation != address(0) || newAttestation.code.length == 0) revert InvalidAttestation(newAttestation);
        if (IUptimeAttestation(newAttestation).settlementBound() > LEAVE_DELAY) {
            revert InvalidAttestation(newAttestation);
        }
        attestation = newAttestation;
        emit AttestationSet(newAttestation);
    }

    /// @inheritdoc IKeeperRegistry
    function setMinBond(uint128 newMinBond) external restricted {
        _setMinBond(newMinBond);
    }

    // ------------------------------------------------------------------------ views

    /// @inheritdoc IKeeperRegistry
    function keepers(uint32 keeperId) external view returns (KeeperView memory) {
        Keeper storage keeper = _keepers[keeperId];
        return
            KeeperView({
                operator: keeper.operator,
                signer: keeper.signer,
                bond: keeper.bond,
                region: keeper.region,
                activeFrom: keeper.activeFrom,
                activeUntil: keeper.activeUntil,
                unlockAt: keeper.unlockActive == 0 ? 0 : _unlockAt(keeper)
            });
    }

    /// @inheritdoc IKeeperRegistry
    function slashes(uint256 slashId) external view returns (SlashView memory) {
        Slash storage slash = _slashes[slashId];
        return
            SlashView({
                keeperId: slash.keeperId,
                amount: slash.amount,
                executableAt: slash.executableAt,
                state: uint8(slash.state),
                reason: uint8(slash.reason)
            });
    }

    /// @inheritdoc IKeeperRegistry
    function reservedOf(uint32 keeperId) external view returns (uint128) {
        return _keepers[keeperId].reserved;
    }

    /// @inheritdoc IKeeperRegistry
    function isGateway(address signer) external view returns (bool) {
        uint32 keeperId = _gateways[signer];
        return keeperId != 0 && _keepers[keeperId].activeUntil == OPEN;
    }

    /// @inheritdoc IKeeperRegistry
    function gatewayKeeper(address signer) external view returns (uint32) {
        return _gateways[signer];
    }

    // -------------------------------------------------------------------- internals

    function _operatedKeeper(uint32 keeperId) private view returns (Keeper storage keeper) {
        keeper = _keepers[keeperId];
        address operator = keeper.operator;
        if (operator == address(0)) revert UnknownKeeper(keeperId);
        if (operator != msg.sender) revert NotKeeperOperator(keeperId, msg.sender, operator);
    }

    function _pendingSlash(uint256 slashId) private view returns (Slash storage slash) {
        slash = _slashes[slashId];
        if (slash.state != SlashState.Pending) revert WrongSlashState(slashId, slash.state);
    }

    /// @dev Out of the set from the next epoch on; the bond is free after the leave delay.
    function _leave(uint32 keeperId, Keeper storage keeper) private {
        uint32 activeUntil = epochs.currentEpoch() + 1;
        keeper.activeUntil = activeUntil;
        keeper.unlockActive = _activeNow() + LEAVE_DELAY;
        emit KeeperLeaving(keeperId, activeUntil, _unlockAt(keeper));
        _dropSigner(activeUntil, keeper.signer);
    }

    function _activeNow() private view returns (uint64) {
        address clock = attestation;
        uint64 timestamp = uint64(block.timestamp);
        return clock == address(0) ? timestamp : IUptimeAttestation(clock).activeTime(timestamp);
    }

    function _unlockAt(Keeper storage keeper) private view returns (uint64) {
        address clock = attestation;
        uint64 active = keeper.unlockActive;
        return clock == address(0) ? active : IUptimeAttestation(clock).wallTime(active);
    }

    function _setMinBond(uint128 newMinBond) private {
        if (newMinBond == 0) revert InvalidParameter("minBond", 0, 1, type(uint128).max);
        minBond = newMinBond;
        emit MinBondSet(newMinBond);
    }

    function _setVetoWindow(uint32 newVetoWindow) private {
        uint32 shortest = epochs.EPOCH_LENGTH();
        if (newVetoWindow < shortest || newVetoWindow > MAX_VETO_WINDOW) {
            revert InvalidParameter("vetoWindow", newVetoWindow, shortest, MAX_VETO_WINDOW);
        }
        vetoWindow = newVetoWindow;
        emit VetoWindowSet(newVetoWindow);
    }
}
