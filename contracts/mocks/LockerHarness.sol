// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {NodeRegistryLocker} from "../NodeRegistryLocker.sol";

/// @title The locker with a node counter that a test can set: 131,071 registrations would take an hour
contract LockerHarness is NodeRegistryLocker {
    constructor(
        IERC20 token_,
        uint64 genesis,
        uint32 epochLength,
        uint128 minStake_,
        uint32 cooldown_,
        address authority_
    ) NodeRegistryLocker(token_, genesis, epochLength, minStake_, cooldown_, authority_) {}

    /// @notice Sets the number of nodes given out.
    function setNodeCount(uint32 count) external {
        nodeCount = count;
    }

    /// @notice Calls another locker's code on this one's storage: the deployed code at a counter that it would not reach.
    function run(address code, bytes calldata data) external {
        Address.functionDelegateCall(code, data);
    }
}
