"""What the gateway writes about each request: log, route receipt, explanation, execution records and their batches."""
