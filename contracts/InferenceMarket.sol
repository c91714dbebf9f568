// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {AccessManaged} from "@openzeppelin/contracts/access/manager/AccessManaged.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {IInferenceCallback} from "./interfaces/IInferenceCallback.sol";
import {IInferenceMarket} from "./interfaces/IInferenceMarket.sol";
import {INodeRegistryLocker} from "./interfaces/INodeRegistryLocker.sol";
import {FeeSplit} from "./libraries/FeeSplit.sol";
import {TokenTransfers} from "./libraries/TokenTransfers.sol";

/// @title Inference market
contract InferenceMarket is IInferenceMarket, AccessManaged, Pausable, ReentrancyGuardTransient, EIP712 {
    using SafeERC20 for IERC20;
    using TokenTransfers for IERC20;

    // ------------------------------------------------------------------ storage

    /// @dev The callback's slot is written only by requests that have one.
    struct Request {
        address requester;
        uint64 deadline;
        RequestStatus status;
        bool hasCallback;
        uint128 escrow;
        bytes32 requestHash;
        address callback;
    }

    bytes32 private constant RECEIPT_TYPEHASH = keccak256(
        "ServiceReceipt(bytes32 requestId,uint32 nodeId,bytes32 requestHash,bytes32 resultHash,bytes32 poe,bytes32 modelRevision,uint32 promptTokens,uint32 completionTokens,uint64 startedAtMs,uint64 finishedAtMs,uint256 priceWei)"
    );
    /// @notice Most that treasury and infrastructure may get together, in basis points.
    uint256 public constant MAX_FEE_BPS = FeeSplit.MAX_BPS;
    /// @notice Longest time from request to deadline, in seconds.
    uint64 public constant MAX_DURATION = 30 days;
    /// @notice Longest payload, in bytes.
    uint256 public constant MAX_PAYLOAD = 32_768;
    /// @notice Gas that a callback gets.
    uint256 public constant CALLBACK_GAS = 200_000;

    /// @inheritdoc IInferenceMarket
    IERC20 public immutable token;
    /// @inheritdoc IInferenceMarket
    INodeRegistryLocker public immutable nodes;

    // The split, the treasury and the nonce share a slot.
    /// @inheritdoc IInferenceMarket
    uint16 public treasuryBps;
    /// @inheritdoc IInferenceMarket
    uint16 public infrastructureBps;
    /// @inheritdoc IInferenceMarket
    address public treasury;
    uint64 private _nonce;
    /// @inheritdoc IInferenceMarket
    address public infrastructure;
    mapping(bytes32 requestId => Request) private _requests;

    // -------------------------------------------------------------- construction

    /// @param token_ the token that is paid, a plain ERC-20
    /// @param nodes_ the node registry
    /// @param treasury_ receives 10 %
    /// @param infrastructure_ receives 5 %
    /// @param authority_ the AccessManager
    constructor(
        IERC20 token_,
        INodeRegistryLocker nodes_,
        address treasury_,
        address infrastructure_,
        address authority_
    ) AccessManaged(authority_) EIP712("ParalleliX", "1") {
        if (address(token_).code.length == 0) revert NotAContract("token", address(token_));
        if (address(nodes_).code.length == 0) revert NotAContract("nodes", address(nodes_));
        token = token_;
        nodes = nodes_;
        _setRecipients(treasury_, infrastructure_);
        _setFeeSplit(1_000, 500);
    }

    // --------------------------------------------------------------------- requests

    /// @inheritdoc IInferenceMarket
    function request(
        bytes32 model,
        bytes calldata payload,
        uint256 priceCeiling,
        uint64 deadline,
        address callback
    ) external nonReentrant whenNotPaused returns (bytes32 requestId) {
        if (priceCeiling == 0 || priceCeiling > type(uint128).max) {
            revert PriceOutOfRange(priceCeiling, 1, type(uint128).max);
        }
        if (payload.length == 0 || payload.length > MAX_PAYLOAD) {
            revert PayloadOutOfRange(payload.length, MAX_PAYLOAD);
        }
        uint64 nowAt = uint64(block.timestamp);
        if (deadline <= nowAt || deadline > nowAt + MAX_DURATION) {
            revert DeadlineOutOfRange(deadline, nowAt + 1, nowAt + MAX_DURATION);
        }
        requestId = _requestId(_nonce++);
        Request storage stored = _requests[requestId];
        stored.requester = msg.sender;
        stored.deadline = deadline;
        stored.status = RequestStatus.Open;
        stored.escrow = uint128(priceCeiling);
        stored.requestHash = keccak256(payload);
        if (callback != address(0)) {
            stored.hasCallback = true;
            stored.callback = callback;
        }
        emit InferenceRequested(requestId, msg.sender, model, payload, priceCeiling, deadline);
        token.pullExact(msg.sender, priceCeiling);
    }

    /// @inheritdoc IInferenceMarket
    function fulfil(
        ServiceReceipt calldata receipt,
        bytes calldata nodeSignature,
        bytes calldata result
    ) external nonReentrant {
        bytes32 requestId = receipt.requestId;
        Request storage stored = _requests[requestId];
        if (stored.status != RequestStatus.Open) revert WrongStatus(requestId, stored.status);
        if (block.timestamp > stored.deadline) {
            revert DeadlinePassed(requestId, stored.deadline, uint64(block.timestamp));
        }
        bytes32 requestHash = stored.requestHash;
        if (receipt.requestHash != requestHash) revert RequestHashMismatch(receipt.requestHash, requestHash);
        uint256 escrow = stored.escrow;
        if (receipt.priceWei > escrow) revert PriceAboveCeiling(receipt.priceWei, escrow);
        _checkReceipt(receipt, nodeSignature, result);

        stored.status = RequestStatus.Fulfilled;
        stored.escrow = 0;
        emit InferenceFulfilled(requestId, receipt.nodeId, receipt.priceWei, receipt.resultHash, result);
        _pay(receipt.nodeId, receipt.priceWei);
        if (escrow != receipt.priceWei) token.safeTransfer(stored.requester, escrow - receipt.priceWei);
        if (stored.hasCallback) _callBack(requestId, stored.callback, result);
    }

    /// @inheritdoc IInferenceMarket
    function refund(bytes32 requestId) external nonReentrant {
        Request storage stored = _requests[requestId];
        if (stored.status != RequestStatus.Open) revert WrongStatus(requestId, stored.status);
        if (block.timestamp <= stored.deadline) {
            revert DeadlineNotPassed(requestId, stored.deadline, uint64(block.timestamp));
        }
        uint256 escrow = stored.escrow;
        address requester = stored.requester;
        stored.status = RequestStatus.Refunded;
        stored.escrow = 0;
        emit InferenceRefunded(requestId, requester, escrow);
        token.safeTransfer(requester, escrow);
    }

    // --------------------------------------------------------------- administration

    /// @inheritdoc IInferenceMarket
    function setFeeSplit(uint16 newTreasuryBps, uint16 newInfrastructureBps) external restricted {
        _setFeeSplit(newTreasuryBps, newInfrastructureBps);
    }

    /// @inheritdoc IInferenceMarket
    function setRecipients(address newTreasury, address newInfrastructure) external restricted {
        _setRecipients(newTreasury, newInfrastructure);
    }

    /// @inheritdoc IInferenceMarket
    function pause() external restricted {
        _pause();
    }

    /// @inheritdoc IInferenceMarket
    function unpause() external restricted {
        _unpause();
    }

    // ------------------------------------------------------------------------ views

    /// @inheritdoc IInferenceMarket
    function requests(bytes32 requestId) external view returns (RequestView memory) {
        Request storage stored = _requests[requestId];
        return
            RequestView({
                requester: stored.requester,
                escrow: stored.escrow,
                deadline: stored.deadline,
                status: uint8(stored.status),
                requestHash: stored.requestHash,
                callback: stored.callback
            });
    }

    /// @inheritdoc IInferenceMarket
    function hashReceipt(ServiceReceipt calldata receipt) external view returns (bytes32 digest) {
        return _hashReceipt(receipt);
    }

    /// @inheritdoc IInferenceMarket
    function nextRequestId() external view returns (bytes32) {
        return _requestId(_nonce);
    }

    // -------------------------------------------------------------------- internals

    function _checkReceipt(
        ServiceReceipt calldata receipt,
        bytes calldata nodeSignature,
        bytes calldata result
    ) private view {
        bytes32 resultHash = keccak256(result);
        if (receipt.resultHash != resultHash) revert ResultHashMismatch(receipt.resultHash, resultHash);
        bytes32 poe = sha256(abi.encodePacked(receipt.requestId, result, receipt.nodeId));
        if (receipt.poe != poe) revert PoeMismatch(receipt.poe, poe);
        (address key, , ) = ECDSA.tryRecoverCalldata(_hashReceipt(receipt), nodeSignature);
        // Node 0 does not exist and no key is bound to it.
        if (receipt.nodeId == 0 || nodes.nodeOfKey(key) != receipt.nodeId) {
            revert InvalidNodeSignature(receipt.nodeId, key);
        }
    }

    function _pay(uint32 nodeId, uint256 price) private {
        uint256 toTreasury = FeeSplit.share(price, treasuryBps);
        uint256 toInfrastructure = FeeSplit.share(price, infrastructureBps);
        token.safeTransfer(nodes.payoutAddress(nodeId), price - toTreasury - toInfrastructure);
        if (toTreasury != 0) token.safeTransfer(treasury, toTreasury);
        if (toInfrastructure != 0) token.safeTransfer(infrastructure, toInfrastructure);
    }

    /// @dev The callback runs last, with a fixed stipend, and its answer is not copied: it can neither reenter (guard),
    /// nor revert the fulfilment, nor make it pay for returned memory. The sender cannot starve it of gas either.
    function _callBack(bytes32 requestId, address callback, bytes calldata result) private {
        bytes memory data = abi.encodeCall(IInferenceCallback.onInferenceResult, (requestId, result));
        uint256 needed = (CALLBACK_GAS * 64) / 63 + 10_000;
        if (gasleft() < needed) revert InsufficientCallbackGas(gasleft(), needed);
        bool success;
        uint256 stipend = CALLBACK_GAS;
        assembly ("memory-safe") {
            success := call(stipend, callback, 0, add(data, 0x20), mload(data), 0, 0)
        }
        if (!success) emit CallbackFailed(requestId, callback);
    }

    function _hashReceipt(ServiceReceipt calldata receipt) private view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(RECEIPT_TYPEHASH, receipt)));
    }

    function _requestId(uint64 nonce) private view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, address(this), nonce));
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
