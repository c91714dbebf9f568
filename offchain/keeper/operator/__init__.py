"""What a keeper's operator does by hand: keys, preflight, joining the registry, a look at the outbox."""
