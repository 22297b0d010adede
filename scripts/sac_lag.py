"""SAC-Lagrangian, the thin script: `python scripts/sac_lag.py --env HalfCheetahVelocity-v4`."""

import sys

from rlsuite.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", "sac_lag", *sys.argv[1:]]))
