"""Why a request to another server got no whole answer.

::

    TransportError
     +-- ConnectError     no connection was made: refused, unreachable, or the wrong certificate was shown
     +-- ResetError       the connection closed before the answer, or in the middle of it
     +-- ProtocolError    the other side does not speak HTTP/1.1 as we need it

Callers translate them: the dispatcher into a `NodeError`, the node agent into status 503.
"""

from offchain.errors import TransientError


class TransportError(TransientError):
    """An exchange with another server failed. The message says how, without its address."""


class ConnectError(TransportError):
    """No connection was made, so nothing was sent."""


class ResetError(TransportError):
    """The connection closed before the answer was whole."""


class ProtocolError(TransportError):
    """The answer is not HTTP/1.1, or breaks its framing."""
