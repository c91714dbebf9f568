"""Inference as a class of work: reads OpenAI requests, understands answers, continues cut streams. The core knows none."""
