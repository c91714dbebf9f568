// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {UptimeTree} from "../libraries/UptimeTree.sol";

/// @title The tree library's functions, callable
contract TreeProbe {
    /// @notice See UptimeTree.
    function computeRoot(
        uint32 epoch,
        uint32 nodeCount,
        uint32 nodeId,
        bytes32 packedLeaf,
        bytes32[13] calldata proof
    ) external pure returns (bytes32) {
        return UptimeTree.computeRoot(epoch, nodeCount, nodeId, packedLeaf, proof);
    }

    /// @notice See UptimeTree.
    function uptimeIn(bytes32 packedLeaf, uint32 nodeId) external pure returns (uint16) {
        return UptimeTree.uptimeIn(packedLeaf, nodeId);
    }
}
