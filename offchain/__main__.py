"""`python -m offchain` is the `parallelix` command."""

from offchain.cli import main

main()
