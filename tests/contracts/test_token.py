"""ParallelixToken: fixed supply, permit."""

from tests.support.contracts.factory import PRLX, World, key_of, now
from tests.support.contracts.signing import permit_signature


def test_token__deployed__whole_supply_is_minted_once(world: World) -> None:
    assert world.token.totalSupply() == 100_000_000 * PRLX == world.token.TOTAL_SUPPLY()
    assert world.token.decimals() == 18
    assert world.token.symbol() == "PRLX"
    names = {method.name for method in world.token.contract_type.mutable_methods}
    assert names == {"approve", "transfer", "transferFrom", "permit"}


def test_permit__signed_by_owner__sets_allowance(world: World) -> None:
    key = key_of(77)
    spender = str(world.locker.address)
    deadline = now() + 1000
    world.token.permit(
        key.address,
        spender,
        5,
        deadline,
        *permit_signature(world, key, spender, 5, deadline),
        sender=world.deployer,
    )
    assert world.token.allowance(key.address, spender) == 5
