// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IInferenceMarket} from "../../contracts/interfaces/IInferenceMarket.sol";
import {INodeRegistryLocker} from "../../contracts/interfaces/INodeRegistryLocker.sol";
import {IUptimeAttestation} from "../../contracts/interfaces/IUptimeAttestation.sol";
import {IVoucherCollector} from "../../contracts/interfaces/IVoucherCollector.sol";
import {Base} from "./Base.sol";
import {PackedTree} from "./PackedTree.sol";

/// @dev What the fuzzer may do to the network: honest and hostile actors alike. Each call is wrapped so that a refusal by the
/// contracts is no failure; ghosts record what must then hold.
contract Handler is Base {
    address[4] internal actors = [address(0xA1), address(0xA2), address(0xA3), address(0xA4)];
    uint256 internal constant PAYER_SIGNER = 0x51671E5;

    // ------------------------------------------------------------------ ghosts

    mapping(uint32 nodeId => uint256) public principal;
    mapping(uint32 nodeId => mapping(uint32 epoch => uint256)) public timesPaid;
    mapping(uint32 epoch => uint256) public frozenPool;
    mapping(uint32 epoch => uint256) public frozenTotal;
    mapping(uint32 epoch => bool) public frozen;
    mapping(uint32 epoch => bytes32) public finalRoot;
    mapping(uint32 epoch => PackedTree) internal trees;
    bytes32[] public requests;
    mapping(bytes32 requestId => uint256) public settlements;
    uint256 public deposited;
    uint256 public withdrawnCredits;
    uint256 public collectedCredits;
    uint256 public bondsWithdrawn;
    uint256 public claims;
    uint256 public highestEpoch;

    constructor() {
        deployNetwork();
        for (uint256 i = 0; i < actors.length; ++i) {
            token.transfer(actors[i], 1_000_000_000);
            address[4] memory spenders = [address(locker), address(market), address(vault), address(distributor)];
            for (uint256 j = 0; j < spenders.length; ++j) {
                vm.prank(actors[i]);
                token.approve(spenders[j], type(uint256).max);
            }
        }
        _authorize(actors[0]);
    }

    function _authorize(address payer) private {
        bytes32 separator = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("ParalleliX"),
                keccak256("1"),
                block.chainid,
                address(vault)
            )
        );
        uint64 deadline = uint64(block.timestamp + 1);
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256("SignerAuthorization(address payer,address signer,uint64 deadline)"),
                payer,
                vm.addr(PAYER_SIGNER),
                deadline
            )
        );
        bytes memory proof = signatureBy(
            PAYER_SIGNER,
            keccak256(abi.encodePacked(hex"1901", separator, structHash))
        );
        vm.prank(payer);
        vault.authorizeSigner(vm.addr(PAYER_SIGNER), 5_000, deadline, proof);
    }

    // ------------------------------------------------------------------- clock

    function wait(uint256 seconds_) external {
        vm.warp(block.timestamp + 1 + (seconds_ % 700));
        _freeze();
    }

    /// @dev Notes what an epoch began with, at the first moment seen in it.
    function _freeze() private {
        uint32 epoch = locker.currentEpoch();
        for (uint32 e = uint32(highestEpoch); e <= epoch; ++e) {
            if (frozen[e]) continue;
            frozen[e] = true;
            frozenPool[e] = distributor.poolOf(e);
            frozenTotal[e] = locker.totalWeightAt(e);
        }
        highestEpoch = epoch;
    }

    // ------------------------------------------------------------------- nodes

    function register(uint256 who, uint256 stake, uint8 tier) external {
        _freeze();
        uint32 nodeId = locker.nodeCount() + 1;
        stake = MIN_STAKE + (stake % 1_000_000);
        vm.prank(actors[who % 4]);
        locker.registerNode(stake, 1 + (tier % 4), bytes32(uint256(uint160(vm.addr(nodeKey(nodeId))))));
        principal[nodeId] = stake;
    }

    function exit(uint256 who, uint32 nodeId, uint256 what) external {
        _freeze();
        uint32 count = locker.nodeCount();
        if (count == 0) return;
        nodeId = 1 + (nodeId % count);
        address caller = actors[who % 4];
        uint256 before = token.balanceOf(caller);
        vm.prank(caller);
        if (what % 3 == 0) {
            try locker.requestUnstake(nodeId) {} catch {}
        } else if (what % 3 == 1) {
            try locker.cancelUnstake(nodeId) {} catch {}
        } else {
            try locker.withdrawStake(nodeId) {
                check(caller == locker.nodes(nodeId).owner, "2: principal went to another than the owner");
                check(token.balanceOf(caller) - before == principal[nodeId], "2: not exactly the principal");
                principal[nodeId] = 0;
            } catch {}
        }
    }

    // ------------------------------------------------------------------ reports

    /// @dev A quorum may sign anything: uptimes are the fuzzer's, above 10,000 as well.
    function report(uint32 back, uint256 seed, uint256 bitmap) external {
        _freeze();
        uint32 current = locker.currentEpoch();
        if (current == 0) return;
        uint32 epoch = current - 1 - (back % 2 == 0 || current == 1 ? 0 : 1);
        uint32 count = locker.nodeCount();
        PackedTree tree = new PackedTree(epoch, count, seed);
        bitmap %= 1 << KEEPERS;
        IUptimeAttestation.EpochReport memory made = IUptimeAttestation.EpochReport(
            epoch,
            tree.root(),
            count,
            bytes32(seed),
            bytes32(seed),
            keepers.setDigestAt(epoch)
        );
        bytes32 digest = attestation.hashReport(made);
        bytes memory signatures = "";
        uint256 signers = 0;
        for (uint256 i = 0; i < KEEPERS; ++i) {
            if ((bitmap >> i) & 1 == 1) {
                signatures = abi.encodePacked(signatures, signatureBy(keeperKey(i), digest));
                ++signers;
            }
        }
        IUptimeAttestation.EpochStatus status = attestation.status(epoch);
        try attestation.submit(made, bitmap, signatures) {
            check(signers >= keepers.quorumAt(epoch), "11: taken without a quorum");
            check(status == IUptimeAttestation.EpochStatus.Open, "10: a second report of an epoch was taken");
            trees[epoch] = tree;
        } catch {}
    }

    function reject(uint32 epoch) external {
        _freeze();
        epoch %= locker.currentEpoch() + 1;
        bool wasFinal = attestation.isFinal(epoch);
        try attestation.rejectReport(epoch) {
            check(!wasFinal, "10: a final report was rejected");
        } catch {}
    }

    function pauseFor(uint256 seconds_) external {
        _freeze();
        attestation.pause();
        vm.warp(block.timestamp + (seconds_ % 900));
        attestation.unpause();
        _freeze();
    }

    // ------------------------------------------------------------------ rewards

    function claim(uint32 nodeId, uint32 epoch) external {
        _freeze();
        uint32 count = locker.nodeCount();
        if (count == 0) return;
        nodeId = 1 + (nodeId % count);
        epoch %= locker.currentEpoch() + 1;
        PackedTree tree = trees[epoch];
        if (address(tree) == address(0)) return;
        bytes32 leaf = tree.leaf(nodeId);
        bytes32[13] memory proof = tree.proof(nodeId);
        address to = locker.payoutAddress(nodeId);
        uint256 before = token.balanceOf(to);
        uint256 paid = distributor.paidOf(epoch);
        try distributor.claim(nodeId, epoch, leaf, proof) returns (uint256 amount) {
            check(attestation.isFinal(epoch), "10: paid before it was final");
            check(token.balanceOf(to) - before == amount, "payout went elsewhere");
            check(distributor.paidOf(epoch) == paid + amount, "paid is not what was paid");
            check(tree.uptime(nodeId) <= 10_000, "9: uptime above full was paid");
            uint256 weight = locker.weightAt(nodeId, epoch);
            uint256 expected = (frozenPool[epoch] * weight * tree.uptime(nodeId)) / (10_000 * frozenTotal[epoch]);
            check(amount == expected, "18: another amount than the formula's");
            ++timesPaid[nodeId][epoch];
            ++claims;
        } catch {}
    }

    function fund(uint256 who, uint256 amount) external {
        _freeze();
        vm.prank(actors[who % 4]);
        distributor.fund(1 + (amount % 100_000));
    }

    function settle(uint32 epoch, bool lapsed) external {
        _freeze();
        epoch %= locker.currentEpoch() + 1;
        if (lapsed) {
            try distributor.rollover(epoch) {} catch {}
        } else {
            try distributor.sweep(epoch) {} catch {}
        }
    }

    // ------------------------------------------------------------------- market

    function request(uint256 who, uint256 ceiling, uint64 duration) external {
        _freeze();
        bytes32 id = market.nextRequestId();
        vm.prank(actors[who % 4]);
        market.request(bytes32(0), "{}", 1 + (ceiling % 10_000), uint64(block.timestamp) + 1 + (duration % 500), address(0));
        requests.push(id);
    }

    function fulfil(uint256 index, uint32 nodeId, uint256 price) external {
        _freeze();
        uint32 count = locker.nodeCount();
        if (requests.length == 0 || count == 0) return;
        bytes32 id = requests[index % requests.length];
        nodeId = 1 + (nodeId % count);
        IInferenceMarket.ServiceReceipt memory receipt;
        receipt.requestId = id;
        receipt.nodeId = nodeId;
        receipt.requestHash = keccak256("{}");
        receipt.resultHash = keccak256("ok");
        receipt.poe = sha256(abi.encodePacked(id, "ok", nodeId));
        receipt.priceWei = price % 12_000;
        bytes memory signature = signatureBy(nodeKey(nodeId), market.hashReceipt(receipt));
        uint64 deadline = market.requests(id).deadline;
        try market.fulfil(receipt, signature, "ok") {
            check(block.timestamp <= deadline, "20: fulfilled after the deadline");
            ++settlements[id];
        } catch {}
    }

    function refund(uint256 index) external {
        _freeze();
        if (requests.length == 0) return;
        bytes32 id = requests[index % requests.length];
        uint64 deadline = market.requests(id).deadline;
        try market.refund(id) {
            check(block.timestamp > deadline, "20: refunded before the deadline");
            ++settlements[id];
        } catch {}
    }

    // ------------------------------------------------------------------ credits

    function deposit(uint256 amount) external {
        _freeze();
        vm.prank(actors[0]);
        vault.deposit(actors[0], 1 + (amount % 4_000));
        deposited += 1 + (amount % 4_000);
    }

    function withdrawCredits(uint128 amount, bool ask) external {
        _freeze();
        vm.prank(actors[0]);
        if (ask) {
            try vault.requestWithdrawal(1 + (amount % 4_000)) {} catch {}
        } else {
            try vault.withdraw() returns (uint256 paid) {
                withdrawnCredits += paid;
            } catch {}
        }
    }

    function setCap(uint128 cap) external {
        _freeze();
        vm.prank(actors[0]);
        vault.setSignerCap(vm.addr(PAYER_SIGNER), cap % 20_000);
    }

    function redeem(uint32 nodeId, uint256 cumulative) external {
        _freeze();
        uint32 count = locker.nodeCount();
        if (count == 0) return;
        nodeId = 1 + (nodeId % count);
        IVoucherCollector.Voucher memory voucher = IVoucherCollector.Voucher(actors[0], nodeId, cumulative % 6_000);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(PAYER_SIGNER, collector.hashVoucher(voucher));
        bytes32 vs = bytes32(uint256(s) | (uint256(v - 27) << 255));
        uint256 before = collector.collected(actors[0], nodeId);
        uint256 available = vault.available(vm.addr(PAYER_SIGNER));
        try collector.redeem(IVoucherCollector.SignedVoucher(voucher, r, vs)) returns (uint256 amount) {
            check(collector.collected(actors[0], nodeId) == before + amount, "17: collected is not the sum");
            check(amount <= available && before + amount <= voucher.cumulativeWei, "17: more than owed or there");
            collectedCredits += amount;
        } catch {}
    }

    // ------------------------------------------------------------------- checks

    function principalIsThere() external view {
        uint256 sum = 0;
        for (uint32 id = 1; id <= locker.nodeCount(); ++id) sum += principal[id];
        check(token.balanceOf(address(locker)) == sum, "1: the locker holds another sum than all principal");
    }

    function balancesCoverLiabilities() external view {
        uint256 escrows = 0;
        for (uint256 i = 0; i < requests.length; ++i) escrows += market.requests(requests[i]).escrow;
        check(token.balanceOf(address(market)) == escrows, "3: the market holds another sum than all escrows");

        uint256 owed = vault.accounts(actors[0]).balance + vault.feesOwed(actors[0]);
        check(token.balanceOf(address(vault)) == owed, "3: the vault holds another sum than it owes");
        check(deposited == withdrawnCredits + collectedCredits + vault.accounts(actors[0]).balance, "17: credits leak");

        check(
            token.balanceOf(address(keepers)) ==
                KEEPERS * MIN_BOND - bondsWithdrawn,
            "3: the keepers' bonds are not all there"
        );

        uint256 pools = 0;
        uint32 last = locker.currentEpoch() + 1;
        for (uint32 e = 0; e <= last || e <= 61; ++e) {
            if (!distributor.settled(e)) pools += distributor.poolOf(e) - distributor.paidOf(e);
        }
        check(token.balanceOf(address(distributor)) == pools, "3: the distributor holds another sum than it owes");
    }

    function payoutsAndWeights() external view {
        uint32 current = locker.currentEpoch();
        for (uint32 e = 0; e <= current + 1; ++e) {
            check(distributor.paidOf(e) <= distributor.poolOf(e), "4: more was paid than the pool");
            uint256 sum = 0;
            for (uint32 id = 1; id <= locker.nodeCount(); ++id) {
                sum += locker.weightAt(id, e);
                check(timesPaid[id][e] <= 1, "5: paid twice");
            }
            check(sum == locker.totalWeightAt(e), "8: the total is not the sum");
            if (frozen[e]) {
                check(frozenTotal[e] == sum, "6: a weight of a begun epoch changed");
                check(frozenPool[e] == distributor.poolOf(e), "6: a pool of a begun epoch changed");
            }
        }
    }

    function requestsEndOnce() external view {
        for (uint256 i = 0; i < requests.length; ++i) {
            IInferenceMarket.RequestView memory one = market.requests(requests[i]);
            check(settlements[requests[i]] <= 1, "20: settled twice");
            check((one.status == 1) == (settlements[requests[i]] == 0), "20: neither open nor settled");
        }
    }
}
