#!/usr/bin/env bash
# EnvPool 1.2.5: tasks of dm_control promise observations above 2.2e-308, and give negative ones.
#
# The smallest number of each observation is declared as the smallest positive float64
# (std::numeric_limits<double>::min() in C++, which is not the lowest one), so that
# observation_space.contains() is false for what the environment itself returns, and anything that
# clips or scales by the declared space cuts off every negative joint angle and velocity.
#
# Seen on Linux, x86-64, Python 3.11, envpool 1.2.5, gymnasium 1.4.0, CheetahRun-v1:
#   position   declared above 2.23e-308, least seen -0.438, outside its own space: True
#   velocity   declared above 2.23e-308, least seen -9.27, outside its own space: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet envpool==1.2.5 gymnasium==1.4.0 "numpy<3"
"$folder/venv/bin/python" - <<'PY'
import sys

import envpool
import numpy as np

env = envpool.make_gymnasium("CheetahRun-v1", num_envs=1, seed=0)
obs, _ = env.reset()
rng = np.random.default_rng(0)
least = {}
for _ in range(100):
    action = rng.uniform(-1, 1, (1, *env.action_space.shape)).astype(env.action_space.dtype)
    obs = env.step(action)[0]
    for key, value in obs.items():
        least[key] = min(least.get(key, 0.0), float(np.min(value)))
held = True
for key, space in env.observation_space.spaces.items():
    low, outside = float(np.min(space.low)), not space.contains(obs[key][0])
    print(f"{key:10} declared above {low:.3g}, least seen {least.get(key, 0.0):.3g}, "
          f"outside its own space: {outside}")
    if key in ("position", "velocity"):
        held &= low == np.finfo(np.float64).tiny and least[key] < 0 and outside
sys.exit(not held)
PY
echo "as described"
