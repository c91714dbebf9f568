// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// @title A value per epoch that stays until it changes
/// @notice Like OpenZeppelin's Checkpoints, which finds a value by binary search over all changes: here a bitmap says in which
/// epochs the value changed, so that a lookup takes two storage reads however long the history is. A second bitmap, of words
/// that are not empty, bridges long times without a change.
library EpochTrace {
    /// @dev `words[e >> 8]` has bit e & 255 for each epoch e with a change; `groups[w >> 8]` bit w & 255 for each word w.
    struct Trace {
        mapping(uint256 epoch => uint256 value) values;
        mapping(uint256 index => uint256 bits) words;
        mapping(uint256 index => uint256 bits) groups;
    }

    /// @dev Sets the value from `epoch` on. Epochs after it must have no value of their own.
    function set(Trace storage self, uint256 epoch, uint256 value) internal {
        uint256 index = epoch >> 8;
        uint256 bits = self.words[index];
        uint256 bit = 1 << (epoch & 255);
        if (bits & bit == 0) {
            self.words[index] = bits | bit;
            if (bits == 0) self.groups[index >> 8] |= 1 << (index & 255);
        }
        self.values[epoch] = value;
    }

    /// @dev The value in `epoch`; 0 before the first change.
    function get(Trace storage self, uint256 epoch) internal view returns (uint256) {
        uint256 index = epoch >> 8;
        uint256 bits = _upTo(self.words[index], epoch & 255);
        if (bits == 0) {
            bool found;
            (found, index) = _previousWord(self, index);
            if (!found) return 0;
            bits = self.words[index];
        }
        return self.values[(index << 8) | Math.log2(bits)];
    }

    /// @dev The last word before `index` that is not empty.
    function _previousWord(Trace storage self, uint256 index) private view returns (bool found, uint256) {
        if (index == 0) return (false, 0);
        --index;
        uint256 group = index >> 8;
        uint256 bits = _upTo(self.groups[group], index & 255);
        while (bits == 0) {
            if (group == 0) return (false, 0);
            bits = self.groups[--group];
        }
        return (true, (group << 8) | Math.log2(bits));
    }

    /// @dev Bits 0 to `position`.
    function _upTo(uint256 bits, uint256 position) private pure returns (uint256) {
        return bits & (type(uint256).max >> (255 - position));
    }
}
