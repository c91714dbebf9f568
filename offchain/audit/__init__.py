"""Recomputes what the network did, trusting nobody: epochs, statements, execution records. Shares `offchain/evidence` with the
keepers that it checks, and nothing else.
"""
