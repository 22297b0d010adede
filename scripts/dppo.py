"""DPPO, the thin script: `python scripts/dppo.py --dataset deep-ope/hopper/medium-v0`."""

import sys

from rlsuite.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "dppo", *sys.argv[1:]]))
