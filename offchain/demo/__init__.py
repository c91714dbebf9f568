"""A whole network on this machine: every part real, loopback only, told step by step."""
