"""`python -m specs_lightning`: the command `specs`."""

import os
import sys

# Python has put the working directory before all that is installed: what lies there would be imported in its place.
if not sys.flags.safe_path and sys.path[0] in ("", os.getcwd()):
    del sys.path[0]

from specs_lightning.cli import main  # now that the path is right

if __name__ == "__main__":
    main()
