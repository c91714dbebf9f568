"""The content of pages as plain data, built from a snapshot of the index and reads of the chain at its block."""
