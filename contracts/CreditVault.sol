// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {AccessManaged} from "@openzeppelin/contracts/access/manager/AccessManaged.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {ICreditVault} from "./interfaces/ICreditVault.sol";
import {FeeSplit} from "./libraries/FeeSplit.sol";
import {TokenTransfers} from "./libraries/TokenTransfers.sol";

/// @title Credit vault
contract CreditVault is ICreditVault, AccessManaged, Pausable, ReentrancyGuardTransient, EIP712 {
    using SafeERC20 for IERC20;
    using TokenTransfers for IERC20;

    // ------------------------------------------------------------------ storage

    /// @dev One slot, all that a collection writes of an account. `fees` are the shares kept and not yet sent on.
    struct Funds {
        uint128 balance;
        uint128 fees;
    }

    struct Account {
        Funds funds;
        uint128 thawing;
        uint64 thawedAt;
        uint32 signerCount;
    }

    /// @dev What a signer may spend. A collection reads and writes the first slot only, unless another cap is pending;
    /// `pendingAt` is 0 while none is.
    struct Allowance {
        uint104 cap;
        uint104 spent;
        uint40 pendingAt;
        uint104 pendingCap;
    }

    bytes32 private constant AUTHORIZATION_TYPEHASH = keccak256(
        "SignerAuthorization(address payer,address signer,uint64 deadline)"
    );
    /// @notice Most that treasury and infrastructure may get together, in basis points.
    uint256 public constant MAX_FEE_BPS = FeeSplit.MAX_BPS;
    /// @notice Highest cap of a signer, in wei.
    uint256 public constant MAX_CAP = type(uint104).max;
    /// @notice Longest thaw, in seconds: withdrawal stays short.
    uint32 public constant MAX_THAW_PERIOD = 14 days;

    /// @inheritdoc ICreditVault
    IERC20 public immutable token;
    /// @inheritdoc ICreditVault
    uint32 public immutable THAW_PERIOD;

    // One slot: all that a collection reads of the configuration.
    /// @inheritdoc ICreditVault
    address public collector;
    /// @inheritdoc ICreditVault
    uint16 public treasuryBps;
    /// @inheritdoc ICreditVault
    uint16 public infrastructureBps;
    /// @inheritdoc ICreditVault
    address public treasury;
    /// @inheritdoc ICreditVault
    address public infrastructure;
    mapping(address payer => Account) private _accounts;
    mapping(address signer => address payer) private _payerOf;
    mapping(address payer => mapping(address signer => Allowance)) private _allowances;

    // -------------------------------------------------------------- construction

    /// @param token_ the token held, a plain ERC-20
    /// @param thawPeriod seconds, 1 to MAX_THAW_PERIOD
    /// @param treasury_ receives the treasury's share
    /// @param infrastructure_ receives the infrastructure's share
    /// @param authority_ the AccessManager
    constructor(
        IERC20 token_,
        uint32 thawPeriod,
        address treasury_,
        address infrastructure_,
        address authority_
    ) AccessManaged(authority_) EIP712("ParalleliX", "1") {
        if (address(token_).code.length == 0) revert NotAContract("token", address(token_));
        if (thawPeriod == 0 || thawPeriod > MAX_THAW_PERIOD) {
            revert InvalidParameter("thawPeriod", thawPeriod, 1, MAX_THAW_PERIOD);
        }
        token = token_;
        THAW_PERIOD = thawPeriod;
        _setRecipients(treasury_, infrastructure_);
        _setFeeSplit(1_000, 500);
    }

    // --------------------------------------------------------- deposits, withdrawals

    /// @inheritdoc ICreditVault
    function deposit(address payer, uint256 amount) external nonReentrant whenNotPaused {
        _deposit(payer, amount);
    }

    /// @inheritdoc ICreditVault
    function depositWithPermit(
        uint256 amount,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external nonReentrant whenNotPaused {
        token.tryPermit(amount, deadline, v, r, s);
        _deposit(msg.sender, amount);
    }

    function _deposit(address payer, uint256 amount) private {
        if (payer == address(0)) revert ZeroAddress();
        if (amount == 0) revert ZeroAmount();
        Account storage account = _accounts[payer];
        uint256 room = type(uint128).max - account.funds.balance;
        if (amount > room) revert AmountTooLarge(amount, room);
        account.funds.balance += uint128(amount);
        emit Deposited(payer, msg.sender, amount);
        token.pullExact(msg.sender, amount);
    }

    /// @inheritdoc ICreditVault
    function requestWithdrawal(uint128 amount) external {
        if (amount == 0) revert ZeroAmount();
        Account storage account = _accounts[msg.sender];
        if (amount > account.funds.balance) revert InsufficientBalance(msg.sender, account.funds.balance, amount);
        uint64 thawedAt = _thawed();
        account.thawing = amount;
        account.thawedAt = thawedAt;
        emit WithdrawalRequested(msg.sender, amount, thawedAt);
    }

    /// @inheritdoc ICreditVault
    function cancelWithdrawal() external {
        Account storage account = _accounts[msg.sender];
        if (account.thawedAt == 0) revert NothingThawing(msg.sender);
        account.thawing = 0;
        account.thawedAt = 0;
        emit WithdrawalCancelled(msg.sender);
    }

    /// @inheritdoc ICreditVault
    function withdraw() external nonReentrant returns (uint256 amount) {
        Account storage account = _accounts[msg.sender];
        uint64 thawedAt = account.thawedAt;
        if (thawedAt == 0) revert NothingThawing(msg.sender);
        if (block.timestamp < thawedAt) revert StillThawing(msg.sender, thawedAt, uint64(block.timestamp));
        uint128 balance = account.funds.balance;
        uint128 paid = account.thawing < balance ? account.thawing : balance;
        account.funds.balance = balance - paid;
        account.thawing = 0;
        account.thawedAt = 0;
        emit Withdrawn(msg.sender, paid);
        token.safeTransfer(msg.sender, paid);
        return paid;
    }

    // ---------------------------------------------------------------------- signers

    /// @inheritdoc ICreditVault
    function authorizeSigner(address signer, uint128 cap, uint64 deadline, bytes calldata proof) external {
        if (cap > MAX_CAP) revert AmountTooLarge(cap, MAX_CAP);
        address boundTo = _payerOf[signer];
        if (signer == address(0) || boundTo != address(0)) revert SignerAlreadyBound(signer, boundTo);
        if (block.timestamp > deadline) revert ProofExpired(deadline, uint64(block.timestamp));
        bytes32 digest = _hashTypedDataV4(keccak256(abi.encode(AUTHORIZATION_TYPEHASH, msg.sender, signer, deadline)));
        (address recovered, , ) = ECDSA.tryRecoverCalldata(digest, proof);
        if (recovered != signer) revert InvalidProof(signer, recovered);

        _payerOf[signer] = msg.sender;
        Allowance storage allowance = _allowances[msg.sender][signer];
        uint64 effectiveAt = uint64(block.timestamp);
        if (_accounts[msg.sender].signerCount++ == 0) {
            allowance.cap = uint104(cap);
        } else {
            effectiveAt = _thawed();
            allowance.pendingCap = uint104(cap);
            allowance.pendingAt = uint40(effectiveAt);
        }
        emit SignerAuthorized(msg.sender, signer, cap, effectiveAt);
    }

    /// @inheritdoc ICreditVault
    function setSignerCap(address signer, uint128 newCap) external {
        if (newCap > MAX_CAP) revert AmountTooLarge(newCap, MAX_CAP);
        if (_payerOf[signer] != msg.sender) revert NotPayersSigner(signer, msg.sender);
        Allowance storage allowance = _allowances[msg.sender][signer];
        _applyPendingCap(allowance);
        uint64 effectiveAt = _thawed();
        allowance.pendingCap = uint104(newCap);
        allowance.pendingAt = uint40(effectiveAt);
        emit SignerCapChanged(msg.sender, signer, newCap, effectiveAt);
    }

    // ------------------------------------------------------------------- collection

    /// @inheritdoc ICreditVault
    /// @dev Not guarded against reentrance: the collector is, and the books are closed before the token is called.
    function collect(address payer, address signer, address to, uint256 wanted) external returns (uint256 taken) {
        if (msg.sender != collector) revert NotCollector(msg.sender);
        Account storage account = _accounts[payer];
        Allowance storage allowance = _allowances[payer][signer];
        (uint256 cap, uint256 spent) = _applyPendingCap(allowance);
        Funds memory funds = account.funds;
        taken = _spendable(cap, spent, funds.balance);
        if (wanted < taken) taken = wanted;
        if (taken == 0) {
            // A signer that is not the payer's has no allowance, so this is the only place that must tell why.
            if (_payerOf[signer] != payer || payer == address(0)) revert NotPayersSigner(signer, payer);
            return 0;
        }
        // All fit: none is above `taken`, which is at most the balance.
        uint256 fees = FeeSplit.share(taken, uint256(treasuryBps) + infrastructureBps);
        allowance.spent = uint104(spent + taken);
        account.funds = Funds(funds.balance - uint128(taken), funds.fees + uint128(fees));
        token.safeTransfer(to, taken - fees);
    }

    /// @inheritdoc ICreditVault
    function payFees(address[] calldata payers) external nonReentrant {
        uint256 owed = 0;
        for (uint256 i = 0; i < payers.length; ++i) {
            Account storage account = _accounts[payers[i]];
            owed += account.funds.fees;
            account.funds.fees = 0;
        }
        uint256 bps = uint256(treasuryBps) + infrastructureBps;
        uint256 toInfrastructure = bps == 0 ? 0 : (owed * infrastructureBps) / bps;
        emit FeesPaid(owed - toInfrastructure, toInfrastructure);
        token.safeTransfer(treasury, owed - toInfrastructure);
        token.safeTransfer(infrastructure, toInfrastructure);
    }

    // --------------------------------------------------------------- administration

    /// @inheritdoc ICreditVault
    function setCollector(address newCollector) external restricted {
        if (collector != address(0) || newCollector.code.length == 0) revert InvalidCollector(newCollector);
        collector = newCollector;
        emit CollectorSet(newCollector);
    }

    /// @inheritdoc ICreditVault
    function setFeeSplit(uint16 newTreasuryBps, uint16 newInfrastructureBps) external restricted {
        _setFeeSplit(newTreasuryBps, newInfrastructureBps);
    }

    /// @inheritdoc ICreditVault
    function setRecipients(address newTreasury, address newInfrastructure) external restricted {
        _setRecipients(newTreasury, newInfrastructure);
    }

    /// @inheritdoc ICreditVault
    function pause() external restricted {
        _pause();
    }

    /// @inheritdoc ICreditVault
    function unpause() external restricted {
        _unpause();
    }

    // ------------------------------------------------------------------------ views

    /// @inheritdoc ICreditVault
    function accounts(address payer) external view returns (AccountView memory) {
        Account storage account = _accounts[payer];
        return AccountView(account.funds.balance, account.thawing, account.thawedAt);
    }

    /// @inheritdoc ICreditVault
    function signers(address signer) external view returns (SignerView memory) {
        address payer = _payerOf[signer];
        Allowance storage allowance = _allowances[payer][signer];
        bool pending = allowance.pendingAt > block.timestamp;
        return
            SignerView({
                payer: payer,
                cap: uint128(_capOf(allowance)),
                spent: allowance.spent,
                pendingCap: pending ? allowance.pendingCap : 0,
                pendingAt: pending ? allowance.pendingAt : 0
            });
    }

    /// @inheritdoc ICreditVault
    function available(address signer) external view returns (uint256) {
        address payer = _payerOf[signer];
        Allowance storage allowance = _allowances[payer][signer];
        return _spendable(_capOf(allowance), allowance.spent, _accounts[payer].funds.balance);
    }

    /// @inheritdoc ICreditVault
    function feesOwed(address payer) external view returns (uint256) {
        return _accounts[payer].funds.fees;
    }

    /// @inheritdoc ICreditVault
    function signerCount(address payer) external view returns (uint32) {
        return _accounts[payer].signerCount;
    }

    // -------------------------------------------------------------------- internals

    function _applyPendingCap(Allowance storage allowance) private returns (uint256 cap, uint256 spent) {
        uint256 pendingAt;
        (cap, spent, pendingAt) = (allowance.cap, allowance.spent, allowance.pendingAt);
        if (pendingAt != 0 && block.timestamp >= pendingAt) {
            cap = allowance.pendingCap;
            allowance.cap = uint104(cap);
            allowance.pendingAt = 0;
        }
    }

    function _capOf(Allowance storage allowance) private view returns (uint256) {
        uint256 pendingAt = allowance.pendingAt;
        return pendingAt != 0 && block.timestamp >= pendingAt ? allowance.pendingCap : allowance.cap;
    }

    /// @dev What cap and balance both allow; a cap may have been lowered below what was spent.
    function _spendable(uint256 cap, uint256 spent, uint256 balance) private pure returns (uint256) {
        if (spent >= cap) return 0;
        return cap - spent < balance ? cap - spent : balance;
    }

    function _thawed() private view returns (uint64) {
        return uint64(block.timestamp) + THAW_PERIOD;
    }

    function _setFeeSplit(uint16 newTreasuryBps, uint16 newInfrastructureBps) private {
        FeeSplit.check(newTreasuryBps, newInfrastructureBps);
        treasuryBps = newTreasuryBps;
        infrastructureBps = newInfrastructureBps;
        emit FeeSplitSet(newTreasuryBps, newInfrastructureBps);
    }

    function _setRecipients(address newTreasury, address newInfrastructure) private {
        if (newTreasury == address(0) || newInfrastructure == address(0)) revert ZeroAddress();
        treasury = newTreasury;
        infrastructure = newInfrastructure;
        emit RecipientsSet(newTreasury, newInfrastructure);
    }
}
