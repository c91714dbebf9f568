"""What the node's owner does with a wallet: stake, claim, withdraw, and read the earnings."""
