"""Where pages get their figures: the chain, the index, the gateway, published documents of keepers and nodes."""
