"""Reading the chain: deployment file, ABIs, pinned reads, reverts in words, log scan and index. Nothing here sends a transaction."""
