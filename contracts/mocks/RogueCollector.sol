// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICreditVault} from "../interfaces/ICreditVault.sol";

/// @title A collector that checks nothing: what the vault itself still refuses
contract RogueCollector {
    /// @notice Collects whatever it is told.
    function collect(ICreditVault vault, address payer, address signer, address to, uint256 amount) external {
        vault.collect(payer, signer, to, amount);
    }
}
