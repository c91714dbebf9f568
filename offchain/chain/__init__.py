"""The chain, read side: deployment, keys, pinned reads, log scan, index. Nothing here sends a transaction."""
