"""What gateway and node say to each other: tickets, receipts, pair MACs, heartbeats, manifests, headers, error bodies."""
