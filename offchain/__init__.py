"""ParalleliX off-chain: everything of the network that does not run inside a contract."""

__version__ = "0.1.0"
