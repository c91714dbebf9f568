// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {EpochTrace} from "../../contracts/libraries/EpochTrace.sol";
import {PauseClock} from "../../contracts/libraries/PauseClock.sol";
import {Tiers} from "../../contracts/libraries/Tiers.sol";
import {UptimeTree} from "../../contracts/libraries/UptimeTree.sol";
import {PackedTree} from "./PackedTree.sol";
import {Vm} from "./Base.sol";

/// @dev Libraries against plain reference implementations.
contract FuzzTest {
    using EpochTrace for EpochTrace.Trace;
    using PauseClock for PauseClock.Pause[];

    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    EpochTrace.Trace internal trace;
    PauseClock.Pause[] internal pauses;

    function computeRoot(
        uint32 epoch,
        uint32 count,
        uint32 id,
        bytes32 leaf,
        bytes32[13] calldata proof
    ) external pure returns (bytes32) {
        return UptimeTree.computeRoot(epoch, count, id, leaf, proof);
    }

    function testFuzz_tree_provesItsLeaves(uint32 epoch, uint32 count, uint32 id, uint256 seed) public {
        count = 1 + (count % 31);
        id = 1 + (id % count);
        PackedTree tree = new PackedTree(epoch, count, seed);
        require(
            this.computeRoot(epoch, count, id, tree.leaf(id), tree.proof(id)) == tree.root(),
            "a good proof failed"
        );
        require(UptimeTree.uptimeIn(tree.leaf(id), id) == tree.uptime(id), "another uptime");
    }

    function testFuzz_tree_refusesAnythingElse(
        uint32 epoch,
        uint32 count,
        uint32 id,
        uint256 seed,
        uint256 flip
    ) public {
        count = 1 + (count % 31);
        id = 1 + (id % count);
        PackedTree tree = new PackedTree(epoch, count, seed);
        bytes32 leaf = tree.leaf(id);
        bytes32[13] memory proof = tree.proof(id);
        uint256 kind = flip % 5;
        if (kind == 0) leaf ^= bytes32(1 << (flip % 256));
        else if (kind == 1) proof[flip % 13] ^= bytes32(1 << (flip % 256));
        else if (kind == 2) epoch ^= uint32(1 << (flip % 32));
        else if (kind == 3) count ^= uint32(1 << (flip % 32));
        else id ^= uint32(1 << (4 + (flip % 13)));
        bool same = kind == 4 && tree.leaf(id) == leaf && id < 32;
        require(same || this.computeRoot(epoch, count, id, leaf, proof) != tree.root(), "a false proof passed");
    }

    function testFuzz_trace_isAStepFunction(uint32[12] memory gaps, uint64[12] memory values, uint40 probe) public {
        uint256 epoch = 0;
        uint256 expected = 0;
        uint256 at = uint256(probe) % 3_000_000;
        for (uint256 i = 0; i < 12; ++i) {
            epoch += gaps[i] % (i % 3 == 0 ? 700_000 : 300);
            trace.set(epoch, values[i]);
            if (epoch <= at) expected = values[i];
        }
        require(trace.get(at) == expected, "not the last value set at or before the epoch");
    }

    function testFuzz_clock_standsStillInPauses(uint16[6] memory runs, uint16[6] memory stops, uint24 ahead) public {
        vm.warp(1_000_000);
        uint256 active = 1_000_000;
        for (uint256 i = 0; i < 6; ++i) {
            vm.warp(block.timestamp + runs[i]);
            active += runs[i];
            require(pauses.toActive(uint64(block.timestamp)) == active, "runs at another speed");
            pauses.start();
            vm.warp(block.timestamp + stops[i]);
            require(pauses.toActive(uint64(block.timestamp)) == active, "ran during a pause");
            pauses.stop();
        }
        uint64 goal = uint64(active) + 1 + ahead;
        uint64 wall = pauses.toWall(goal);
        require(wall == block.timestamp + 1 + ahead, "a later time is not as far as it should be");
        vm.warp(wall);
        require(pauses.toActive(wall) == goal, "not inverse");
    }

    function testFuzz_tiers_onlyFourHaveAMultiplier(uint8 tier) public pure {
        uint16[5] memory expected = [0, 10_000, 15_000, 25_000, 30_000];
        require(Tiers.multiplierBps(tier) == (tier < 5 ? expected[tier] : 0), "another multiplier");
    }
}
