"""Pure rules of the network: no clock, no randomness, no I/O, no framework; integers only."""
