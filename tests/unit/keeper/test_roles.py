"""Where a keeper's HTTP API listens."""

import pytest

from offchain.errors import UserError
from offchain.keeper.process.roles import base_url, listen


@pytest.mark.parametrize(("host", "form"), [("127.0.0.1", "http://127.0.0.1:{}"), ("::1", "http://[::1]:{}")])
def test_base_url__address_of_either_family__is_one_that_clients_take(host: str, form: str) -> None:
    with listen(host, 0) as listener:
        assert base_url(host, listener) == form.format(listener.getsockname()[1])


def test_listen__port_is_taken__says_so() -> None:
    with listen("127.0.0.1", 0) as listener, pytest.raises(UserError, match="choose another port"):
        listen("127.0.0.1", listener.getsockname()[1])
