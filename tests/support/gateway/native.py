"""A pytest plugin (`pytest -p tests.support.gateway.native`): tests import the gateway's hot path as native code."""

from offchain.runtime import native_code

_reason = native_code.use()
if _reason is not None:
    raise RuntimeError(_reason)
