"""`python -m specs_lightning`: the command `specs`."""

from specs_lightning.cli import main

if __name__ == "__main__":
    main()
