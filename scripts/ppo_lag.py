"""PPO-Lagrangian, the thin script: `python scripts/ppo_lag.py --env HopperVelocity-v4`."""

import sys

from rlsuite.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "ppo_lag", *sys.argv[1:]]))
