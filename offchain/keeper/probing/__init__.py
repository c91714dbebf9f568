"""Probes: which node is asked when, what is asked, and what an answer says about the node."""
