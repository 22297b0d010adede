"""ReLOAD, the thin script: `python scripts/reload.py --env HopperVelocity-v4`."""

import sys

from rlsuite.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "reload", *sys.argv[1:]]))
