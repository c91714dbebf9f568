// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {AccessManager} from "@openzeppelin/contracts/access/manager/AccessManager.sol";

import {CreditVault} from "../../contracts/CreditVault.sol";
import {InferenceMarket} from "../../contracts/InferenceMarket.sol";
import {KeeperRegistry} from "../../contracts/KeeperRegistry.sol";
import {NodeRegistryLocker} from "../../contracts/NodeRegistryLocker.sol";
import {ParallelixToken} from "../../contracts/ParallelixToken.sol";
import {RewardDistributor} from "../../contracts/RewardDistributor.sol";
import {UptimeAttestation} from "../../contracts/UptimeAttestation.sol";
import {VoucherCollector} from "../../contracts/VoucherCollector.sol";

/// @dev The few cheat codes that we use; forge-std is not in the registry that this project installs from.
interface Vm {
    function warp(uint256 timestamp) external;
    function prank(address sender) external;
    function sign(uint256 key, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function addr(uint256 key) external pure returns (address);
    function assume(bool condition) external pure;
    function expectRevert(bytes4 selector) external;
}

/// @dev A whole network, deployed by this contract, which keeps every role.
abstract contract Base {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint32 internal constant EPOCH = 1000;
    uint32 internal constant SUBMIT_WINDOW = 300;
    uint32 internal constant CHALLENGE_WINDOW = 200;
    uint32 internal constant COOLDOWN = 1500;
    uint32 internal constant CLAIM_WINDOW = 4000;
    uint32 internal constant THAW = 700;
    uint16 internal constant SLOTS = 10;
    uint128 internal constant MIN_STAKE = 1000;
    uint128 internal constant MIN_BOND = 500;
    uint256 internal constant EMISSION = 1_000_003;
    uint256 internal constant KEEPERS = 4;

    ParallelixToken internal token;
    NodeRegistryLocker internal locker;
    KeeperRegistry internal keepers;
    UptimeAttestation internal attestation;
    RewardDistributor internal distributor;
    InferenceMarket internal market;
    CreditVault internal vault;
    VoucherCollector internal collector;
    address internal constant TREASURY = address(0x7777);
    address internal constant INFRASTRUCTURE = address(0x8888);
    address internal constant RESERVE = address(0x9999);

    function deployNetwork() internal {
        vm.warp(1_800_000_000);
        AccessManager manager = new AccessManager(address(this));
        token = new ParallelixToken(address(this));
        locker = new NodeRegistryLocker(
            token,
            uint64(block.timestamp),
            EPOCH,
            MIN_STAKE,
            COOLDOWN,
            address(manager)
        );
        keepers = new KeeperRegistry(token, locker, MIN_BOND, 2500, address(manager));
        attestation = new UptimeAttestation(
            locker,
            keepers,
            SUBMIT_WINDOW,
            CHALLENGE_WINDOW,
            SLOTS,
            address(manager)
        );
        distributor = new RewardDistributor(token, locker, attestation, CLAIM_WINDOW, RESERVE, address(manager));
        market = new InferenceMarket(token, locker, TREASURY, INFRASTRUCTURE, address(manager));
        vault = new CreditVault(token, THAW, TREASURY, INFRASTRUCTURE, address(manager));
        collector = new VoucherCollector(vault, locker);
        keepers.setAttestation(address(attestation));
        attestation.setMarket(address(market));
        vault.setCollector(address(collector));
        token.approve(address(distributor), type(uint256).max);
        distributor.scheduleEmission(EMISSION, 1, 60);
        token.approve(address(keepers), type(uint256).max);
        for (uint256 i = 0; i < KEEPERS; ++i) keepers.join(MIN_BOND, vm.addr(keeperKey(i)), bytes32(i), "");
    }

    function keeperKey(uint256 index) internal pure returns (uint256) {
        return 0xA11CE + index;
    }

    function nodeKey(uint32 nodeId) internal pure returns (uint256) {
        return 0xB0B000 + nodeId;
    }

    function signatureBy(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function check(bool condition, string memory what) internal pure {
        require(condition, what);
    }
}
