"""Tickets remembered, gateways looked up: clocks and chain are injected."""

import asyncio
import threading
from pathlib import Path

import pytest

from offchain.domain.types import Address
from offchain.errors import FatalError, TransientError
from offchain.node.agent.gateway_list import GatewayList
from offchain.node.agent.registry import RegistryReader
from offchain.node.agent.replay_guard import MAX_LIFETIME_MS, MAX_SKEW_MS, ReplayGuard, TicketError
from offchain.node.agent.slots import Slots

SIGNER = Address("0x" + "aa" * 20)


class Chain:
    """Answers `isGateway`, and counts how often it was asked."""

    def __init__(self) -> None:
        self.listed, self.down, self.asked, self.now = True, False, 0, 0.0

    async def lookup(self, signer: Address) -> bool:
        self.asked += 1
        if self.down:
            raise TransientError("down")
        return self.listed

    def known(self, **changes: float) -> GatewayList:
        return GatewayList(self.lookup, lambda: self.now, **changes)


async def test_gateways__listed__asked_once_then_refreshed_behind() -> None:
    chain = Chain()
    known = chain.known(fresh_seconds=10)
    assert await known(SIGNER)
    assert await known(SIGNER)
    assert chain.asked == 1
    chain.now, chain.listed = 11, False
    assert await known(SIGNER)  # from memory; the refresh goes on behind
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not await known(SIGNER)
    assert chain.asked == 2


async def test_gateways__rpc_down__last_word_holds_until_stale() -> None:
    chain = Chain()
    known = chain.known(fresh_seconds=10, stale_seconds=100)
    assert await known(SIGNER)
    chain.down, chain.now = True, 99
    assert await known(SIGNER)
    chain.now = 101
    assert not await known(SIGNER)


async def test_gateways__unlisted__not_asked_again_at_once() -> None:
    chain = Chain()
    chain.listed = False
    known = chain.known(refuse_seconds=2)
    assert not await known(SIGNER)
    assert not await known(SIGNER)
    assert chain.asked == 1
    chain.now, chain.listed = 3, True
    assert await known(SIGNER)


async def test_gateways__flood_of_strangers__rpc_is_asked_at_a_bounded_rate_and_memory_is_bounded() -> None:
    chain = Chain()
    chain.listed = False
    known = GatewayList(chain.lookup, lambda: chain.now, capacity=8, questions_per_second=20)
    for number in range(1000):
        assert not await known(Address(f"0x{number:040x}"))
    assert chain.asked == 20
    assert len(known._known) == 8


async def test_registry__endpoint_hangs__questions_are_bounded_and_fail_at_once_beyond_that() -> None:
    answer = threading.Event()

    class Hanging:
        def newest(self) -> "Hanging":
            return self

        def is_gateway(self, signer: Address) -> bool:
            assert answer.wait(30)
            return True

    registry = RegistryReader(Hanging())  # type: ignore[arg-type]
    waiting = [asyncio.create_task(registry.is_gateway(SIGNER)) for _ in range(32)]
    await asyncio.sleep(0)
    with pytest.raises(TransientError, match="too many"):
        await registry.is_gateway(SIGNER)
    answer.set()
    assert all(await asyncio.gather(*waiting))
    assert await registry.is_gateway(SIGNER)


async def test_registry__endpoint_answers_nonsense__is_transient() -> None:
    class Wrong:
        def newest(self) -> "Wrong":
            raise FatalError("the RPC endpoint does not offer a method that is needed")

    with pytest.raises(TransientError, match="does not offer"):
        await RegistryReader(Wrong()).node_of_key(SIGNER)  # type: ignore[arg-type]


def test_replay__journal__survives_a_crash_and_expired_tickets_are_forgotten(tmp_path: Path) -> None:
    first = ReplayGuard(tmp_path, 1_000)
    first.admit(b"a" * 32, 5_000, 1_000)
    first.admit(b"b" * 32, 2_000, 1_000)
    with (tmp_path / "tickets.log").open("ab") as journal:
        journal.write(b"half a rec")
    second = ReplayGuard(tmp_path, 3_000)  # the first was killed: never closed
    with pytest.raises(TicketError) as refused:
        second.admit(b"a" * 32, 5_000, 3_000)
    assert refused.value.status == 409
    second.admit(b"b" * 32, 4_000, 3_000)
    first.close()
    second.close()


def test_replay__two_generations__nothing_alive_is_forgotten(tmp_path: Path) -> None:
    guard = ReplayGuard(tmp_path, 0)
    now = MAX_LIFETIME_MS + MAX_SKEW_MS - 1
    guard.admit(b"a" * 32, now + MAX_LIFETIME_MS, now)
    with pytest.raises(TicketError):
        guard.admit(b"a" * 32, now + MAX_LIFETIME_MS, now + 1)
    guard.admit(b"c" * 32, now + 10, now + MAX_LIFETIME_MS + 2)
    with pytest.raises(TicketError):
        guard.admit(b"a" * 32, 0, now + MAX_LIFETIME_MS - 1)
    guard.close()


def test_replay__full__429() -> None:
    guard = ReplayGuard(None, 0, capacity=1)
    guard.admit(b"a" * 32, 10, 0)
    with pytest.raises(TicketError) as refused:
        guard.admit(b"b" * 32, 10, 0)
    assert refused.value.status == 429


async def test_slots__drain__waits_for_the_last_and_gives_up_in_time() -> None:
    slots = Slots(1)
    held = slots.take()
    assert held is not None
    assert slots.take() is None
    assert await slots.drain(0.01) == 1
    with held:
        pass
    assert await slots.drain(1) == 0
    assert slots.take() is None
