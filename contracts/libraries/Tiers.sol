// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title Hardware tiers and their multipliers
library Tiers {
    /// @dev Multipliers in basis points, 16 bits a tier, tier 0 lowest: 0, 10000, 15000, 25000, 30000.
    uint256 private constant PACKED = (30_000 << 64) | (25_000 << 48) | (15_000 << 32) | (10_000 << 16);

    /// @dev Multiplier of a tier in basis points; 0 if there is no such tier.
    function multiplierBps(uint8 tier) internal pure returns (uint16) {
        return tier > 4 ? 0 : uint16(PACKED >> (16 * uint256(tier)));
    }
}
