"""CAL, the thin script: `python scripts/cal.py --env HalfCheetahVelocity-v4`."""

import sys

from rlsuite.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "cal", *sys.argv[1:]]))
