"""A plugin (`pytest -p tests.support.native`): what the tests import of the gateway's hot path is native code."""

from offchain import compiled

_reason = compiled.use()
if _reason is not None:
    raise RuntimeError(_reason)
