"""`python -m shinan`: the same as the command `shinan`."""

from shinan.cli.main import main

if __name__ == "__main__":
    main()
