"""TD3+BC, the thin script: `python scripts/td3_bc.py --dataset deep-ope/hopper/medium-v0`."""

import sys

from rlsuite.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "td3_bc", *sys.argv[1:]]))
