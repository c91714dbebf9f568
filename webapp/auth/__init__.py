"""Sign-in with a wallet (EIP-4361) and sessions."""
