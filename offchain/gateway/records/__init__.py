"""What the gateway keeps of each request: request log, route receipt, explanation, execution records and their batches."""
