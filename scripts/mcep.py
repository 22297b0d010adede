"""MCEP, the thin script: `python scripts/mcep.py --dataset deep-ope/hopper/medium-v0`."""

import sys

from rlsuite.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "mcep", *sys.argv[1:]]))
