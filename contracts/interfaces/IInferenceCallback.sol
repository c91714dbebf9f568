// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title What a contract implements to be told of its requests' results
interface IInferenceCallback {
    /// @notice Called once by the market, after everything is paid, with a fixed gas stipend. Whatever it does, the
    /// fulfilment stands. Check msg.sender.
    /// @param requestId the request
    /// @param result the node's result bytes
    function onInferenceResult(bytes32 requestId, bytes calldata result) external;
}
