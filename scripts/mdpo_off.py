"""Off-policy MDPO, the thin script: `python scripts/mdpo_off.py --env HalfCheetah-v4 --seeds 5`."""

import sys

from rlsuite.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "mdpo_off", *sys.argv[1:]]))
