"""What the pages say, as plain data: built from a snapshot and pinned reads, rendered as HTML or as JSON."""
