// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Handler} from "./Handler.sol";

/// @dev The numbered invariants of docs/audit/INVARIANTS.md under arbitrary sequences of the handler's calls.
contract InvariantsTest {
    Handler internal handler;

    function setUp() public {
        handler = new Handler();
    }

    /// @dev What forge's invariant runner calls.
    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function invariant_01_principalIsThere() public view {
        handler.principalIsThere();
    }

    function invariant_03_17_balancesCoverLiabilities() public view {
        handler.balancesCoverLiabilities();
    }

    function invariant_04_05_06_08_payoutsAndWeights() public view {
        handler.payoutsAndWeights();
    }

    function invariant_20_requestsEndOnce() public view {
        handler.requestsEndOnce();
    }

    /// @dev The campaign means nothing if its calls only fail: one scripted walk reaches every success.
    function test_handler_reachesWhatItChecks() public {
        handler.register(1, 5_000, 1);
        handler.register(2, 9_000, 3);
        handler.wait(699);
        handler.wait(699);
        handler.wait(699);
        handler.report(0, 3, 7);
        for (uint256 i = 0; i < 3; ++i) handler.wait(100);
        handler.claim(0, 1);
        handler.claim(1, 1);
        require(handler.claims() >= 1, "no claim succeeded");
        handler.deposit(3_999);
        handler.redeem(0, 900);
        require(handler.collectedCredits() == 900, "no voucher was redeemed");
        handler.withdrawCredits(100, true);
        handler.wait(699);
        handler.withdrawCredits(0, false);
        require(handler.withdrawnCredits() == 101, "no credit was withdrawn");
        handler.request(1, 500, 400);
        handler.request(1, 500, 400);
        handler.fulfil(0, 0, 300);
        handler.wait(699);
        handler.refund(1);
        require(handler.settlements(handler.requests(0)) == 1, "no request was fulfilled");
        require(handler.settlements(handler.requests(1)) == 1, "no request was refunded");
        handler.exit(1, 0, 0);
        for (uint256 i = 0; i < 3; ++i) handler.wait(699);
        handler.exit(1, 0, 2);
        require(handler.principal(1) == 0, "no principal was withdrawn");
    }
}
