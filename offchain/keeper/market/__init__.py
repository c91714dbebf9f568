"""Requests that come over the chain: fulfilled once, and a sample of the answers is run again."""
