"""The chain of Ape's tests, unless `--network` names another one: anvil as Ape would start it, but on a port that is
free and with as long to start as a busy machine needs. Ape gives it 20 s, on a port that may be taken."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.services.anvil import start_anvil

HOST = "APE_FOUNDRY_HOST"
_AS_APE = ("--steps-tracing", "--block-base-fee-per-gas", "0", "--gas-price", "0", "--hardfork", "cancun")
_STACK = pytest.StashKey[ExitStack]()


def pytest_configure(config: pytest.Config) -> None:
    """Start the chain before Ape connects to it."""
    if not config.pluginmanager.hasplugin("ape_test") or config.option.collectonly:
        return
    if config.getoption("--network") in (None, "ethereum:local:foundry"):
        stack = config.stash[_STACK] = ExitStack()
        anvil = stack.enter_context(start_anvil(*_AS_APE))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv(HOST, anvil.url)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End it."""
    if _STACK in config.stash:
        config.stash[_STACK].close()


@pytest.fixture(scope="module")
def other_chains() -> Iterator[None]:
    """Let a module's tests tell Ape themselves which chain to use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(HOST, raising=False)
        yield
