"""Probes: which node is asked when, what the request is, and what the reply says about the node."""
