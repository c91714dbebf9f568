// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title Tells with what data a constructor reverts, alike on every chain client
contract ConstructorProbe {
    /// @notice Deploys `creationCode`; empty if that succeeds, otherwise the revert data.
    function revertData(bytes calldata creationCode) external returns (bytes memory data) {
        bytes memory code = creationCode;
        address deployed;
        assembly ("memory-safe") {
            deployed := create(0, add(code, 0x20), mload(code))
        }
        if (deployed == address(0)) {
            assembly ("memory-safe") {
                data := mload(0x40)
                mstore(data, returndatasize())
                returndatacopy(add(data, 0x20), 0, returndatasize())
                mstore(0x40, add(add(data, 0x20), returndatasize()))
            }
        }
    }
}
