// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

/// @title Token intake shared by every contract that holds money
library TokenTransfers {
    using SafeERC20 for IERC20;

    /// @notice The token moved another amount than asked for.
    error UnexpectedTransferAmount(uint256 expected, uint256 received);

    /// @dev Takes exactly `amount` from `from`; a token that keeps a fee, or gives more, is refused.
    function pullExact(IERC20 token, address from, uint256 amount) internal {
        uint256 held = token.balanceOf(address(this));
        token.safeTransferFrom(from, address(this), amount);
        uint256 received = token.balanceOf(address(this)) - held;
        if (received != amount) revert UnexpectedTransferAmount(amount, received);
    }

    /// @dev A permit that fails is no error here: somebody may have sent the same one first. The allowance decides.
    function tryPermit(IERC20 token, uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) internal {
        try IERC20Permit(address(token)).permit(msg.sender, address(this), amount, deadline, v, r, s) {} catch {}
    }
}
