"""The agent that serves requests in front of a model server: tickets, slots, proxy, receipts, heartbeats."""
