// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title Active time: a clock that stands still during pauses
/// @notice Deadlines kept in active time are extended by every pause that falls before them, and never come back to
/// life once passed, because active time never runs backwards. Lookups cost the logarithm of the number of pauses.
///
///   unix time    0----10====15----25        == paused
///   active time  0----10    10----20
library PauseClock {
    /// @dev `end` is 0 while the pause lasts; `before` is the time that earlier pauses covered.
    struct Pause {
        uint64 start;
        uint64 end;
        uint64 before;
    }

    /// @dev Begins a pause now.
    function start(Pause[] storage pauses) internal {
        uint256 count = pauses.length;
        uint64 before = 0;
        if (count != 0) {
            Pause storage last = pauses[count - 1];
            before = last.before + (last.end - last.start);
        }
        pauses.push(Pause({start: uint64(block.timestamp), end: 0, before: before}));
    }

    /// @dev Ends the pause now; one that lasted no time leaves no trace.
    function stop(Pause[] storage pauses) internal {
        Pause storage last = pauses[pauses.length - 1];
        if (last.start == block.timestamp) pauses.pop();
        else last.end = uint64(block.timestamp);
    }

    /// @dev Active time of a unix time that is not in the future.
    function toActive(Pause[] storage pauses, uint64 timestamp) internal view returns (uint64) {
        uint256 low = 0;
        uint256 high = pauses.length;
        while (low < high) {
            uint256 middle = (low + high) / 2;
            if (pauses[middle].start <= timestamp) low = middle + 1;
            else high = middle;
        }
        if (low == 0) return timestamp;
        Pause storage pause = pauses[low - 1];
        uint64 end = pause.end;
        if (end == 0 || timestamp < end) return pause.start - pause.before;
        return timestamp - pause.before - (end - pause.start);
    }

    /// @dev First unix time with the given active time; if a pause lasts, as if it ended now.
    function toWall(Pause[] storage pauses, uint64 active) internal view returns (uint64) {
        uint256 low = 0;
        uint256 high = pauses.length;
        while (low < high) {
            uint256 middle = (low + high) / 2;
            Pause storage probe = pauses[middle];
            if (probe.start - probe.before < active) low = middle + 1;
            else high = middle;
        }
        if (low == 0) return active;
        Pause storage pause = pauses[low - 1];
        uint64 end = pause.end == 0 ? uint64(block.timestamp) : pause.end;
        return active + pause.before + (end - pause.start);
    }
}
