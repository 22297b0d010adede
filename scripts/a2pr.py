"""A2PR, the thin script: `python scripts/a2pr.py --dataset deep-ope/hopper/medium-v0`."""

import sys

from rlsuite.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "a2pr", *sys.argv[1:]]))
