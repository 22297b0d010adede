"""PPO, the thin script: `python scripts/ppo.py --env Hopper-v4 --seeds 5`."""

import sys

from rlsuite.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "ppo", *sys.argv[1:]]))
