"""Fixtures that every kind of test may use."""

pytest_plugins = [
    "tests.support.anvil",
    "tests.support.ape_chain",
    "tests.support.databases",
    "tests.support.network",
]
