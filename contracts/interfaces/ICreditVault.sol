// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @title Credit vault
/// @notice Payers' prepaid balances for API traffic. Money leaves in two ways only: to the payer, after a thaw in which
/// vouchers can still be redeemed, and through the voucher collector, up to each signer's cap.
///
/// A signer (typically a gateway's key) spends for one payer, for ever: it proves that it knows of the binding by a
/// signature, so nobody can bind another's key. A payer's first signer is good at once; any later signer, and any change
/// of a cap up or down, takes effect after the thaw. So whatever a payer does to take money away from those whom it owes
/// (withdraw, or spend through a key of its own) is visible for a whole thaw before it works.
interface ICreditVault {
    // ------------------------------------------------------------------ types

    /// @notice A payer's account.
    /// @param balance wei held, thawing included
    /// @param thawing wei asked to withdraw
    /// @param thawedAt unix time from which `withdraw` succeeds; 0 if nothing was asked
    struct AccountView {
        uint128 balance;
        uint128 thawing;
        uint64 thawedAt;
    }

    /// @notice A voucher signer.
    /// @param payer whose balance it spends
    /// @param cap most that it may ever spend, in wei, now
    /// @param spent wei that it has spent
    /// @param pendingCap cap from `pendingAt` on
    /// @param pendingAt unix time of the pending cap; 0 if none
    struct SignerView {
        address payer;
        uint128 cap;
        uint128 spent;
        uint128 pendingCap;
        uint64 pendingAt;
    }

    // ----------------------------------------------------------------- events

    /// @notice A balance grew.
    event Deposited(address indexed payer, address indexed from, uint256 amount);
    /// @notice A payer asked for money back.
    event WithdrawalRequested(address indexed payer, uint256 amount, uint64 thawedAt);
    /// @notice The request was called off.
    event WithdrawalCancelled(address indexed payer);
    /// @notice Money went back to a payer.
    event Withdrawn(address indexed payer, uint256 amount);
    /// @notice A signer was bound to a payer; it can spend from `effectiveAt` on.
    event SignerAuthorized(address indexed payer, address indexed signer, uint128 cap, uint64 effectiveAt);
    /// @notice A signer's cap changes at `effectiveAt`.
    event SignerCapChanged(address indexed payer, address indexed signer, uint128 cap, uint64 effectiveAt);
    /// @notice The shares were sent to their recipients.
    event FeesPaid(uint256 treasuryShare, uint256 infrastructureShare);
    /// @notice The split of later collections, in basis points; the node gets the rest.
    event FeeSplitSet(uint16 treasuryBps, uint16 infrastructureBps);
    /// @notice Who receives the shares from now on.
    event RecipientsSet(address treasury, address infrastructure);
    /// @notice The collector was wired, once.
    event CollectorSet(address collector);

    // ----------------------------------------------------------------- errors

    /// @notice A constructor argument is outside its bound.
    error InvalidParameter(bytes32 name, uint256 value, uint256 min, uint256 max);
    /// @notice The address that a constructor argument names has no code.
    error NotAContract(bytes32 name, address account);
    /// @notice An address must not be zero.
    error ZeroAddress();
    /// @notice An amount must not be zero.
    error ZeroAmount();
    /// @notice The amount does not fit the books.
    error AmountTooLarge(uint256 amount, uint256 max);
    /// @notice Less is there than asked for.
    error InsufficientBalance(address payer, uint256 balance, uint256 needed);
    /// @notice Nothing was asked to withdraw.
    error NothingThawing(address payer);
    /// @notice The thaw is not over.
    error StillThawing(address payer, uint64 thawedAt, uint64 nowAt);
    /// @notice The signer is zero, or bound to a payer already.
    error SignerAlreadyBound(address signer, address payer);
    /// @notice The signer did not sign the authorisation.
    error InvalidProof(address signer, address recovered);
    /// @notice The authorisation is too old.
    error ProofExpired(uint64 deadline, uint64 nowAt);
    /// @notice The signer is not bound to this payer.
    error NotPayersSigner(address signer, address payer);
    /// @notice Only the collector may do this.
    error NotCollector(address caller);
    /// @notice The collector is already wired, or is no contract.
    error InvalidCollector(address collector);

    // ------------------------------------------------------------- payer's calls

    /// @notice Adds `amount` from the caller to `payer`'s balance.
    function deposit(address payer, uint256 amount) external;

    /// @notice `deposit` to the caller's own balance, with an ERC-2612 permit for exactly `amount`.
    function depositWithPermit(uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external;

    /// @notice Asks for `amount` back; the thaw begins anew. It stays collectable until it is withdrawn.
    function requestWithdrawal(uint128 amount) external;

    /// @notice Calls the request off.
    function cancelWithdrawal() external;

    /// @notice Pays what was asked for, or what is left of the balance if that is less. Never paused.
    /// @return amount wei paid
    function withdraw() external returns (uint256 amount);

    /// @notice Binds a signer to the caller. At once if it is the caller's first, otherwise after the thaw.
    /// @param signer key that will sign vouchers; bound to one payer for ever
    /// @param cap most that it may ever spend, in wei
    /// @param deadline unix time until which the proof is good
    /// @param proof the signer's signature under `SignerAuthorization(address payer,address signer,uint64 deadline)`
    function authorizeSigner(address signer, uint128 cap, uint64 deadline, bytes calldata proof) external;

    /// @notice Changes a signer's cap after the thaw; 0 revokes it.
    function setSignerCap(address signer, uint128 newCap) external;

    // --------------------------------------------------------- collector's and fees

    /// @notice Takes up to `wanted` from the balance of the signer's payer, as far as cap and balance go, keeps the shares and
    /// sends the rest to `to`. Collector only.
    /// @return taken wei taken, shares included
    function collect(address payer, address signer, address to, uint256 wanted) external returns (uint256 taken);

    /// @notice Sends the shares kept from these payers' collections to their recipients, in the ratio of the split in force. With
    /// no split in force, all goes to the treasury. Anybody may send it.
    function payFees(address[] calldata payers) external;

    // ------------------------------------------------------------ administration

    /// @notice Wires the collector, once.
    function setCollector(address newCollector) external;

    /// @notice Sets the shares of later collections; together at most MAX_FEE_BPS.
    function setFeeSplit(uint16 newTreasuryBps, uint16 newInfrastructureBps) external;

    /// @notice Sets who receives the shares.
    function setRecipients(address newTreasury, address newInfrastructure) external;

    /// @notice Stops deposits. Withdrawals and collections go on.
    function pause() external;

    /// @notice Allows deposits again.
    function unpause() external;

    // -------------------------------------------------------------------- views

    /// @notice A payer's account.
    function accounts(address payer) external view returns (AccountView memory);

    /// @notice A signer.
    function signers(address signer) external view returns (SignerView memory);

    /// @notice Most that the signer can be collected for now: what cap and balance both allow.
    function available(address signer) external view returns (uint256);

    /// @notice Shares kept from a payer's collections and not yet sent, both together.
    function feesOwed(address payer) external view returns (uint256);

    /// @notice Number of signers a payer ever bound.
    function signerCount(address payer) external view returns (uint32);

    /// @notice Seconds of the thaw.
    function THAW_PERIOD() external view returns (uint32);

    /// @notice The collector; zero before it is wired.
    function collector() external view returns (address);

    /// @notice The treasury's share in basis points.
    function treasuryBps() external view returns (uint16);

    /// @notice The infrastructure's share in basis points.
    function infrastructureBps() external view returns (uint16);

    /// @notice Who receives the treasury's share.
    function treasury() external view returns (address);

    /// @notice Who receives the infrastructure's share.
    function infrastructure() external view returns (address);

    /// @notice The token held.
    function token() external view returns (IERC20);
}
