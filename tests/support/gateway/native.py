"""A plugin (`pytest -p tests.support.gateway.native`): what the tests import of the gateway's hot path is native code."""

from offchain.runtime import native_code

_reason = native_code.use()
if _reason is not None:
    raise RuntimeError(_reason)
