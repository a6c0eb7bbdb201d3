"""`python -m avsr.cli` is `avsr`."""

from avsr.cli import main

main()
