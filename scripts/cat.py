"""CaT, the thin script: `python scripts/cat.py --env HopperVelocity-v4`."""

import sys

from rlsuite.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "cat", *sys.argv[1:]]))
