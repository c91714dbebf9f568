"""Free TCP ports, chosen as the demo chooses them."""

from offchain.demo.ports import free_port

__all__ = ["free_port"]
