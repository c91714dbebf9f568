"""The operator dashboard: Flask pages over the index and the chain. It reads; every write is signed in a wallet."""

from webapp.app import create_app

__all__ = ["create_app"]
