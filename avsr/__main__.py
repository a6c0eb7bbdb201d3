"""`python -m avsr` is `avsr`, also if the command is not on the path, as in `torchrun -m avsr train CONFIG`."""

from avsr.cli import main

if __name__ == "__main__":
    main()
