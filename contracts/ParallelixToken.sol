// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title PRLX
/// @notice 100,000,000 PRLX, all minted at deployment. No mint, no burn, no owner, no tax; ERC-2612 permits.
contract ParallelixToken is ERC20, ERC20Permit {
    /// @notice The fixed supply in wei.
    uint256 public constant TOTAL_SUPPLY = 100_000_000 ether;

    /// @param recipient receives the whole supply
    constructor(address recipient) ERC20("ParalleliX", "PRLX") ERC20Permit("ParalleliX") {
        _mint(recipient, TOTAL_SUPPLY);
    }
}
