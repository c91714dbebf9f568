// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IInferenceCallback} from "../interfaces/IInferenceCallback.sol";
import {IInferenceMarket} from "../interfaces/IInferenceMarket.sol";

/// @title A requester that keeps its results
contract CallbackRecorder is IInferenceCallback {
    /// @notice Result of each request.
    mapping(bytes32 requestId => bytes result) public results;

    /// @inheritdoc IInferenceCallback
    function onInferenceResult(bytes32 requestId, bytes calldata result) external {
        results[requestId] = result;
    }
}

/// @title A requester that attacks the market from its callback
contract HostileCallback is IInferenceCallback {
    enum Mode {
        Revert,
        BurnGas,
        ReturnBomb,
        ReenterFulfil,
        ReenterRefund
    }

    error Refused();

    IInferenceMarket private immutable MARKET;
    /// @notice What it does when called.
    Mode public mode;

    constructor(IInferenceMarket market) {
        MARKET = market;
    }

    /// @notice Chooses the attack.
    function setMode(Mode newMode) external {
        mode = newMode;
    }

    /// @inheritdoc IInferenceCallback
    function onInferenceResult(bytes32 requestId, bytes calldata) external {
        if (mode == Mode.Revert) revert Refused();
        if (mode == Mode.BurnGas) {
            while (true) {}
        }
        if (mode == Mode.ReturnBomb) {
            assembly {
                return(0, 50000)
            }
        }
        if (mode == Mode.ReenterFulfil) {
            IInferenceMarket.ServiceReceipt memory receipt;
            receipt.requestId = requestId;
            MARKET.fulfil(receipt, "", "");
        }
        MARKET.refund(requestId);
    }
}
