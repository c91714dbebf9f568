"""OpenAI's Batch API: uploaded files, stored batches, and the worker that runs them."""
