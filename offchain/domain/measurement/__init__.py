"""How nodes are measured: when keepers probe, what a tier must do, uptime from evidence, network events, reputation."""
