// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {ICreditVault} from "./interfaces/ICreditVault.sol";
import {INodeRegistryLocker} from "./interfaces/INodeRegistryLocker.sol";
import {IVoucherCollector} from "./interfaces/IVoucherCollector.sol";

/// @title Voucher collector
/// @dev Nobody administers it: it holds no money and has no parameter.
contract VoucherCollector is IVoucherCollector, ReentrancyGuardTransient, EIP712 {
    // ------------------------------------------------------------------ storage

    bytes32 private constant VOUCHER_TYPEHASH = keccak256("Voucher(address payer,uint32 nodeId,uint256 cumulativeWei)");

    /// @inheritdoc IVoucherCollector
    ICreditVault public immutable vault;
    /// @inheritdoc IVoucherCollector
    INodeRegistryLocker public immutable nodes;
    /// @inheritdoc IVoucherCollector
    mapping(address payer => mapping(uint32 nodeId => uint256)) public collected;

    // -------------------------------------------------------------- construction

    /// @param vault_ holds the balances
    /// @param nodes_ the node registry
    constructor(ICreditVault vault_, INodeRegistryLocker nodes_) EIP712("ParalleliX", "1") {
        if (address(vault_).code.length == 0) revert NotAContract("vault", address(vault_));
        if (address(nodes_).code.length == 0) revert NotAContract("nodes", address(nodes_));
        vault = vault_;
        nodes = nodes_;
    }

    // ------------------------------------------------------------------- redemption

    /// @inheritdoc IVoucherCollector
    function redeem(SignedVoucher calldata signed) external nonReentrant returns (uint256 amount) {
        return _redeem(signed);
    }

    /// @inheritdoc IVoucherCollector
    function redeemMany(SignedVoucher[] calldata signed) external nonReentrant returns (uint256 amount) {
        for (uint256 i = 0; i < signed.length; ++i) amount += _redeem(signed[i]);
    }

    /// @dev How much is taken, only the vault knows, so `collected` is written after its call, behind the guard against
    /// reentrance. The vault refuses a signer that is not the payer's, zero included.
    function _redeem(SignedVoucher calldata signed) private returns (uint256 amount) {
        Voucher calldata voucher = signed.voucher;
        (address payer, uint32 nodeId) = (voucher.payer, voucher.nodeId);
        (address signer, , ) = ECDSA.tryRecover(_hashVoucher(voucher), signed.r, signed.vs);
        mapping(uint32 nodeId => uint256) storage ofPayer = collected[payer];
        uint256 before = ofPayer[nodeId];
        if (voucher.cumulativeWei <= before) revert NothingToCollect(payer, nodeId, before);
        address to = nodes.payoutAddress(nodeId);
        if (to == address(0)) revert UnknownNode(nodeId);
        amount = vault.collect(payer, signer, to, voucher.cumulativeWei - before);
        if (amount == 0) revert NothingToCollect(payer, nodeId, before);
        uint256 total = before + amount;
        ofPayer[nodeId] = total;
        emit VoucherRedeemed(payer, nodeId, signer, amount, total);
    }

    // ------------------------------------------------------------------------ views

    /// @inheritdoc IVoucherCollector
    function hashVoucher(Voucher calldata voucher) external view returns (bytes32 digest) {
        return _hashVoucher(voucher);
    }

    function _hashVoucher(Voucher calldata voucher) private view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(VOUCHER_TYPEHASH, voucher)));
    }
}
