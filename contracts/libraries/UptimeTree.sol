// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title The packed uptime tree
/// @notice Fixed depth, leaf index = position, domain-separated hashes: an inner node can never pass for a leaf, a leaf of
/// one epoch never for one of another, and an omitted node is provably omitted.
library UptimeTree {
    /// @dev Depth of every proof; 2 ** 13 leaves of 16 nodes.
    uint256 internal constant DEPTH = 13;
    /// @dev Highest node id that the tree has room for.
    uint32 internal constant MAX_NODE_ID = 131_071;

    /// @dev Root that `packedLeaf`, as leaf nodeId / 16, and its siblings lead to.
    function computeRoot(
        uint32 epoch,
        uint32 nodeCount,
        uint32 nodeId,
        bytes32 packedLeaf,
        bytes32[DEPTH] calldata proof
    ) internal pure returns (bytes32 root) {
        assembly ("memory-safe") {
            // Scratch: 0x00-0x20 prefix (right-aligned), 0x20-0x60 operands; the free memory pointer at 0x40 is put back.
            let freePointer := mload(0x40)
            mstore(0x00, and(epoch, 0xffffffff)) // prefix byte 0x00 is at 0x1b, epoch at 0x1c-0x20
            mstore(0x20, packedLeaf)
            root := keccak256(0x1b, 0x25)

            let index := shr(4, and(nodeId, 0xffffffff))
            mstore(0x00, 0x01)
            for {
                let offset := 0
            } lt(offset, 416) {
                offset := add(offset, 32)
            } {
                let side := shl(5, and(index, 1))
                mstore(add(0x20, side), root)
                mstore(sub(0x40, side), calldataload(add(proof, offset)))
                root := keccak256(0x1f, 0x41)
                index := shr(1, index)
            }

            mstore(0x00, or(or(shl(64, 0x02), shl(32, and(epoch, 0xffffffff))), and(nodeCount, 0xffffffff))) // 0x17: 0x02, epoch, nodeCount
            mstore(0x20, root)
            root := keccak256(0x17, 0x29)
            mstore(0x40, freePointer)
        }
    }

    /// @dev Uptime of a node in its packed leaf, in basis points.
    function uptimeIn(bytes32 packedLeaf, uint32 nodeId) internal pure returns (uint16) {
        return uint16(uint256(packedLeaf) >> (16 * uint256(nodeId & 15)));
    }
}
