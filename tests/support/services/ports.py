"""Free TCP ports, chosen as the demo chooses them, and none twice in one test process."""

from offchain.demo import ports

_given: set[int] = set()


def free_port() -> int:
    """A TCP port of loopback that was free a moment ago. Those given before may not be bound yet."""
    while (port := ports.free_port()) in _given:
        pass
    _given.add(port)
    return port
