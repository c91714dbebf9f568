// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @title Tokens that a holder of money must survive: one contract, one vice at a time
contract HostileToken is ERC20 {
    enum Vice {
        None,
        FeeOnTransfer,
        FalseOnTransfer,
        NoReturnValue,
        Reenter,
        Rebase
    }

    /// @notice The vice in force.
    Vice public vice;
    /// @notice What `Reenter` calls from inside a transfer, and whether it got through.
    address public target;
    bytes public attack;
    bool public gotThrough;
    /// @notice Selector of the error with which the reentrant call was refused last.
    bytes4 public refusal;

    constructor() ERC20("Hostile", "HST") {
        _mint(msg.sender, 1_000_000_000 ether);
    }

    /// @notice Chooses the vice.
    function setVice(Vice newVice) external {
        vice = newVice;
    }

    /// @notice Chooses the reentrant call.
    function setAttack(address newTarget, bytes calldata data) external {
        (target, attack) = (newTarget, data);
    }

    /// @notice Takes away part of a holder's balance, as a negative rebase does.
    function rebase(address holder, uint256 amount) external {
        _burn(holder, amount);
    }

    function transfer(address to, uint256 amount) public override returns (bool) {
        return _move(msg.sender, to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) public override returns (bool) {
        _spendAllowance(from, msg.sender, amount);
        return _move(from, to, amount);
    }

    function _move(address from, address to, uint256 amount) private returns (bool) {
        if (vice == Vice.FalseOnTransfer) return false;
        _transfer(from, to, amount);
        if (vice == Vice.FeeOnTransfer && amount > 100) _burn(to, amount / 100);
        if (vice == Vice.Reenter) {
            // solhint-disable-next-line avoid-low-level-calls
            (bool success, bytes memory answer) = target.call(attack);
            if (success) gotThrough = true;
            else refusal = bytes4(answer);
        }
        if (vice == Vice.NoReturnValue) {
            assembly {
                return(0, 0)
            }
        }
        return true;
    }
}
