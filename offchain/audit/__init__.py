"""Recomputes epochs, statements and execution records from public data and trusts no keeper. It shares `offchain/evidence`
with the keepers that it checks, and imports nothing of theirs (import-linter holds that).
"""
