// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {INodeRegistryLocker} from "./INodeRegistryLocker.sol";

/// @title Inference market
/// @notice On-chain requests: the price ceiling is escrowed, a node-signed receipt fulfils, and after the deadline
/// anybody may refund. A request is fulfilled up to and at its deadline, and refunded only after it, so it ends in
/// exactly one of the two.
interface IInferenceMarket {
    // ------------------------------------------------------------------ types

    /// @notice Life of a request.
    enum RequestStatus {
        None,
        Open,
        Fulfilled,
        Refunded
    }

    /// @notice The one receipt type that a node signs, as EIP-712 `ServiceReceipt` of this contract's domain.
    /// @param requestId id of the request
    /// @param nodeId the node that served
    /// @param requestHash keccak256 of the request body
    /// @param resultHash keccak256 of the result bytes
    /// @param poe sha256(requestId || result || uint32 nodeId)
    /// @param modelRevision hash of the model's revision
    /// @param promptTokens tokens in
    /// @param completionTokens tokens out
    /// @param startedAtMs unix time in milliseconds
    /// @param finishedAtMs unix time in milliseconds
    /// @param priceWei what the node asks, at most the ceiling
    struct ServiceReceipt {
        bytes32 requestId;
        uint32 nodeId;
        bytes32 requestHash;
        bytes32 resultHash;
        bytes32 poe;
        bytes32 modelRevision;
        uint32 promptTokens;
        uint32 completionTokens;
        uint64 startedAtMs;
        uint64 finishedAtMs;
        uint256 priceWei;
    }

    /// @notice What `requests` returns; all zero for an unknown id.
    /// @param requester who escrowed and is refunded
    /// @param escrow wei held for the request now
    /// @param deadline last unix time at which it can be fulfilled
    /// @param status a RequestStatus
    /// @param requestHash keccak256 of the payload
    /// @param callback contract to tell of the result, or zero
    struct RequestView {
        address requester;
        uint128 escrow;
        uint64 deadline;
        uint8 status;
        bytes32 requestHash;
        address callback;
    }

    // ----------------------------------------------------------------- events

    /// @notice A request was escrowed.
    event InferenceRequested(
        bytes32 indexed requestId,
        address indexed requester,
        bytes32 indexed model,
        bytes payload,
        uint256 priceCeiling,
        uint64 deadline
    );
    /// @notice A request was fulfilled and paid.
    event InferenceFulfilled(
        bytes32 indexed requestId,
        uint32 indexed nodeId,
        uint256 priceWei,
        bytes32 resultHash,
        bytes result
    );
    /// @notice A request's escrow went back.
    event InferenceRefunded(bytes32 indexed requestId, address indexed requester, uint256 amount);
    /// @notice The requester's callback failed; the fulfilment stands.
    event CallbackFailed(bytes32 indexed requestId, address indexed callback);
    /// @notice The split of later fulfilments, in basis points; the node gets the rest.
    event FeeSplitSet(uint16 treasuryBps, uint16 infrastructureBps);
    /// @notice Who receives the two shares from now on.
    event RecipientsSet(address treasury, address infrastructure);

    // ----------------------------------------------------------------- errors

    /// @notice The address that a constructor argument names has no code.
    error NotAContract(bytes32 name, address account);
    /// @notice An address must not be zero.
    error ZeroAddress();
    /// @notice The price ceiling is zero or does not fit the books.
    error PriceOutOfRange(uint256 price, uint256 min, uint256 max);
    /// @notice The payload is empty or too long.
    error PayloadOutOfRange(uint256 length, uint256 max);
    /// @notice The deadline is not in the future, or too far in it.
    error DeadlineOutOfRange(uint64 deadline, uint64 earliest, uint64 latest);
    /// @notice The call does not fit the request's status.
    error WrongStatus(bytes32 requestId, RequestStatus status);
    /// @notice The deadline has passed: only a refund is possible.
    error DeadlinePassed(bytes32 requestId, uint64 deadline, uint64 nowAt);
    /// @notice The deadline has not passed: only a fulfilment is possible.
    error DeadlineNotPassed(bytes32 requestId, uint64 deadline, uint64 nowAt);
    /// @notice The receipt is for another request body.
    error RequestHashMismatch(bytes32 given, bytes32 expected);
    /// @notice The receipt is for another result.
    error ResultHashMismatch(bytes32 given, bytes32 expected);
    /// @notice The proof of execution does not bind request, result and node.
    error PoeMismatch(bytes32 given, bytes32 expected);
    /// @notice The node asks more than the ceiling.
    error PriceAboveCeiling(uint256 price, uint256 ceiling);
    /// @notice The receipt is not signed by the node's key.
    error InvalidNodeSignature(uint32 nodeId, address recovered);
    /// @notice Too little gas is left to give the callback its stipend.
    error InsufficientCallbackGas(uint256 left, uint256 needed);

    // ------------------------------------------------------------------- calls

    /// @notice Escrows `priceCeiling` from the caller for one request.
    /// @param model keccak256 of the model's name
    /// @param payload UTF-8 JSON body of an OpenAI chat request
    /// @param priceCeiling most that is paid, in wei
    /// @param deadline last unix time of a fulfilment
    /// @param callback contract to tell of the result, or zero
    /// @return requestId keccak256(abi.encode(chain id, this contract, nonce))
    function request(
        bytes32 model,
        bytes calldata payload,
        uint256 priceCeiling,
        uint64 deadline,
        address callback
    ) external returns (bytes32 requestId);

    /// @notice Fulfils a request with a node's signed receipt and pays: node, treasury, infrastructure, and the rest of
    /// the escrow back to the requester. Anybody may send it.
    function fulfil(ServiceReceipt calldata receipt, bytes calldata nodeSignature, bytes calldata result) external;

    /// @notice Returns the escrow to the requester after the deadline. Anybody may send it; never paused.
    function refund(bytes32 requestId) external;

    // ------------------------------------------------------------ administration

    /// @notice Sets the shares of later fulfilments; together at most MAX_FEE_BPS.
    function setFeeSplit(uint16 newTreasuryBps, uint16 newInfrastructureBps) external;

    /// @notice Sets who receives the shares.
    function setRecipients(address newTreasury, address newInfrastructure) external;

    /// @notice Stops new requests. Fulfilments and refunds go on.
    function pause() external;

    /// @notice Allows new requests again.
    function unpause() external;

    // -------------------------------------------------------------------- views

    /// @notice Everything about one request.
    function requests(bytes32 requestId) external view returns (RequestView memory);

    /// @notice EIP-712 digest of a receipt, as the node signs it.
    function hashReceipt(ServiceReceipt calldata receipt) external view returns (bytes32 digest);

    /// @notice The id that the next request will get.
    function nextRequestId() external view returns (bytes32);

    /// @notice The treasury's share in basis points.
    function treasuryBps() external view returns (uint16);

    /// @notice The infrastructure's share in basis points.
    function infrastructureBps() external view returns (uint16);

    /// @notice Who receives the treasury's share.
    function treasury() external view returns (address);

    /// @notice Who receives the infrastructure's share.
    function infrastructure() external view returns (address);

    /// @notice The token that is paid.
    function token() external view returns (IERC20);

    /// @notice The node registry.
    function nodes() external view returns (INodeRegistryLocker);
}
