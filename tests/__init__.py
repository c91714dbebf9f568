"""Tests, and in `support` the real parts that they start. A package, as another `tests` lies among the dependencies."""
