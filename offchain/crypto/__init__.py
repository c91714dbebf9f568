"""Keys, signatures and addresses: the local keystore, Web3Signer, and the one rule of which signature is valid."""
