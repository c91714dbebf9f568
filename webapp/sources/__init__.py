"""Where pages get their figures from: chain, gateway, manifests of nodes, and what follows from the index alone."""
