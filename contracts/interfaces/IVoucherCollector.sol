// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICreditVault} from "./ICreditVault.sol";
import {INodeRegistryLocker} from "./INodeRegistryLocker.sol";

/// @title Voucher collector
/// @notice Redeems cumulative vouchers: for each (payer, node) a voucher states what is owed in all since the beginning, so
/// the last one is enough, an old one is worth nothing, and none can be paid twice.
interface IVoucherCollector {
    // ------------------------------------------------------------------ types

    /// @notice What a payer's signer signs, as EIP-712 `Voucher` of this contract's domain.
    /// @param payer whose balance pays
    /// @param nodeId the node that is owed
    /// @param cumulativeWei everything owed so far, in wei; only grows
    struct Voucher {
        address payer;
        uint32 nodeId;
        uint256 cumulativeWei;
    }

    /// @notice A voucher with its signer's signature, EIP-2098 compact.
    /// @param voucher what was signed
    /// @param r r of the signature
    /// @param vs s of the signature with v in the top bit
    struct SignedVoucher {
        Voucher voucher;
        bytes32 r;
        bytes32 vs;
    }

    // ----------------------------------------------------------------- events

    /// @notice A voucher was redeemed: `amount` was paid, `collected` in all so far.
    event VoucherRedeemed(
        address indexed payer,
        uint32 indexed nodeId,
        address indexed signer,
        uint256 amount,
        uint256 collected
    );

    // ----------------------------------------------------------------- errors

    /// @notice The address that a constructor argument names has no code.
    error NotAContract(bytes32 name, address account);
    /// @notice There is no such node.
    error UnknownNode(uint32 nodeId);
    /// @notice All that the voucher states was collected, or the signer's cap or the payer's balance is used up.
    error NothingToCollect(address payer, uint32 nodeId, uint256 collected);

    // ------------------------------------------------------------------- calls

    /// @notice Pays a node what a voucher states beyond what was collected, as far as the signer's cap and the payer's
    /// balance go; the rest stays due. Anybody may send it.
    /// @return amount wei taken from the payer
    function redeem(SignedVoucher calldata signed) external returns (uint256 amount);

    /// @notice Many at once. One that fails reverts all.
    function redeemMany(SignedVoucher[] calldata signed) external returns (uint256 amount);

    // -------------------------------------------------------------------- views

    /// @notice Wei collected so far from a payer for a node; only grows.
    function collected(address payer, uint32 nodeId) external view returns (uint256);

    /// @notice EIP-712 digest of a voucher, as the signer signs it.
    function hashVoucher(Voucher calldata voucher) external view returns (bytes32 digest);

    /// @notice The vault.
    function vault() external view returns (ICreditVault);

    /// @notice The node registry.
    function nodes() external view returns (INodeRegistryLocker);
}
