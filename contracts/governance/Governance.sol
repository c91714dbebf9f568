// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

// Compiles the governance contracts, so that the deployment finds their ABI and bytecode among our own.
import {AccessManager} from "@openzeppelin/contracts/access/manager/AccessManager.sol";
import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";

/// @title Roles of functions and accounts in every ParalleliX contract
contract NetworkAccessManager is AccessManager {
    /// @param initialAdmin holds the admin role until the deployment hands it to the timelock
    constructor(address initialAdmin) AccessManager(initialAdmin) {}
}

/// @title Admin of the access manager: every change of a role or parameter waits here in public
contract NetworkTimelock is TimelockController {
    /// @param minDelay seconds from schedule to execution
    /// @param proposers may schedule and cancel
    /// @param executors may execute; the zero address stands for everybody
    constructor(
        uint256 minDelay,
        address[] memory proposers,
        address[] memory executors
    ) TimelockController(minDelay, proposers, executors, address(0)) {}
}
