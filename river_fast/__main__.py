"""`python -m river_fast`: the same as the command `river-fast`."""

import sys

from river_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
