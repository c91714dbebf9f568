"""The node: an agent in front of a model server, and everything an operator does with it."""
