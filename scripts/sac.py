"""SAC, the thin script: `python scripts/sac.py --env HalfCheetah-v4 --seeds 5`."""

import sys

from rlsuite.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "sac", *sys.argv[1:]]))
