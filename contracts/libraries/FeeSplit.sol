// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title The shares of treasury and infrastructure in what a requester pays
/// @notice Shares round down and the node gets the rest, so that a payment is never split into more than it is.
library FeeSplit {
    uint256 private constant BPS = 10_000;
    /// @dev Most that treasury and infrastructure may get together, in basis points.
    uint256 internal constant MAX_BPS = 2_000;

    /// @notice The shares together exceed the bound.
    error FeeSplitOutOfRange(uint256 totalBps, uint256 maxBps);

    /// @dev Reverts unless both shares together are within the bound.
    function check(uint16 treasuryBps, uint16 infrastructureBps) internal pure {
        uint256 totalBps = uint256(treasuryBps) + infrastructureBps;
        if (totalBps > MAX_BPS) revert FeeSplitOutOfRange(totalBps, MAX_BPS);
    }

    /// @dev A share of an amount that is below 2 ** 128.
    function share(uint256 amount, uint256 bps) internal pure returns (uint256) {
        return (amount * bps) / BPS;
    }
}
