"""AWAC, the thin script: `python scripts/awac.py --dataset deep-ope/hopper/medium-v0`."""

import sys

from rlsuite.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "awac", *sys.argv[1:]]))
