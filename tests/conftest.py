"""Fixtures that every kind of test may use."""

pytest_plugins = [
    "tests.support.services.anvil",
    "tests.support.services.ape_chain",
    "tests.support.services.databases",
    "tests.support.services.contracts",
]
