"""The operator dashboard: Flask pages over the index and the chain.

The server only reads; every transaction is signed in the visitor's wallet.
"""

from webapp.app import create_app

__all__ = ["create_app"]
