// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @dev A small uptime tree, built independently of contracts/libraries: up to 31 nodes, uptimes drawn from a seed.
contract PackedTree {
    uint32 internal immutable EPOCH;
    uint32 internal immutable COUNT;
    bytes32[2] internal leaves;

    constructor(uint32 epoch, uint32 count, uint256 seed) {
        EPOCH = epoch;
        COUNT = count;
        for (uint32 id = 1; id <= count && id < 32; ++id) {
            uint256 uptime = uint256(keccak256(abi.encode(seed, id))) % 10_400; // now and then above full
            leaves[id / 16] |= bytes32(uptime << (16 * (id % 16)));
        }
    }

    function leaf(uint32 id) external view returns (bytes32) {
        return id < 32 ? leaves[id / 16] : bytes32(0);
    }

    function uptime(uint32 id) external view returns (uint256) {
        return id < 32 ? (uint256(leaves[id / 16]) >> (16 * (id % 16))) & 0xffff : 0;
    }

    function proof(uint32 id) external view returns (bytes32[13] memory siblings) {
        uint256 index = id / 16;
        bytes32 empty = _leafHash(bytes32(0));
        siblings[0] = index < 2 ? _leafHash(leaves[index ^ 1]) : empty;
        bytes32 pair = _inner(_leafHash(leaves[0]), _leafHash(leaves[1]));
        for (uint256 depth = 1; depth < 13; ++depth) {
            empty = _inner(empty, empty);
            siblings[depth] = index >> 1 == 1 && depth == 1 ? pair : empty;
        }
    }

    function root() external view returns (bytes32) {
        bytes32 empty = _leafHash(bytes32(0));
        bytes32 node = _inner(_leafHash(leaves[0]), _leafHash(leaves[1]));
        for (uint256 depth = 1; depth < 13; ++depth) {
            empty = _inner(empty, empty);
            node = _inner(node, empty);
        }
        return keccak256(abi.encodePacked(bytes1(0x02), EPOCH, COUNT, node));
    }

    function _leafHash(bytes32 packed) private view returns (bytes32) {
        return keccak256(abi.encodePacked(bytes1(0x00), EPOCH, packed));
    }

    function _inner(bytes32 left, bytes32 right) private pure returns (bytes32) {
        return keccak256(abi.encodePacked(bytes1(0x01), left, right));
    }
}
