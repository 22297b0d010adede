"""A saved policy on video. Rendering is by software; no display is needed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from rlsuite.core.saving import load_policy, select_seed
from rlsuite.experiments.run import RunError

RENDERERS = ("egl", "osmesa")


def record(folder: Path, out: Path, seed: int | None = None, episodes: int = 1) -> Path:
    """Write an MP4 of `episodes` episodes of the deterministic policy of `seed` (default: first).

    Raises RunError for a seed that was not trained, a task that cannot be drawn, or where no
    software renderer is installed.
    """
    policy, about = load_policy(folder)
    seeds = about["seeds"]
    if seed is not None and seed not in seeds:
        raise RunError(f"seed {seed} is not in {folder}; it has {', '.join(map(str, seeds))}")
    policy = select_seed(policy, 0 if seed is None else seeds.index(seed))
    env = _drawable(about["task"])
    import imageio  # after the renderer is chosen, which must come before anything imports MuJoCo

    out.parent.mkdir(parents=True, exist_ok=True)
    fps = env.metadata.get("render_fps", 30)
    bounds = () if policy.discrete else (env.action_space.low, env.action_space.high)
    behaviour = policy.behaviour(*(bound.ravel() for bound in bounds))
    # Pictures of the usual players have an even width and height
    with imageio.get_writer(out, fps=fps, macro_block_size=2) as video:
        for episode in range(episodes):
            obs, _ = env.reset(seed=episode)
            ended = False
            video.append_data(env.render())
            while not ended:
                flat = np.asarray(obs, np.float64).reshape(1, 1, -1)
                action = behaviour.act(flat)[1][0, 0]
                if not policy.discrete:
                    action = action.reshape(env.action_space.shape)
                obs, _, terminated, truncated, _ = env.step(action)
                ended = terminated or truncated
                behaviour.reset(np.array([[ended]]))
                video.append_data(env.render())
    env.close()
    return out


def _drawable(task: str):
    """The task with pictures, from whichever software renderer works."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if not {"MUJOCO_GL", "DISPLAY"} & set(os.environ):
        os.environ["MUJOCO_GL"] = _renderer()
    import gymnasium

    how = {"render_mode": "rgb_array", "disable_env_checker": True}
    try:
        env = gymnasium.make(task, **how)
        if _has_camera(env.unwrapped, "track"):  # which goes along; the default one stays behind
            env = gymnasium.make(task, camera_name="track", **how)
        env.reset(seed=0)
        env.render()
    except Exception as error:  # drivers fail in many ways; each means that nothing can be drawn
        raise RunError(
            f"{task} cannot be drawn ({type(error).__name__}: {error}); for MuJoCo tasks install a "
            "software renderer: apt-get install libosmesa6"
        ) from error
    return env


def _has_camera(env, name: str) -> bool:
    """Whether `env` is a MuJoCo task whose model has a camera of this name."""
    if not hasattr(env, "model") or not hasattr(env, "mujoco_renderer"):
        return False
    import mujoco

    return mujoco.mj_name2id(env.model, mujoco.mjtObj.mjOBJ_CAMERA, name) >= 0


def _renderer() -> str:
    """The first software renderer that MuJoCo draws with: a library may be there and fail."""
    for name in RENDERERS:
        command = [sys.executable, "-c", "import mujoco; mujoco.GLContext(8, 8).make_current()"]
        environment = os.environ | {"MUJOCO_GL": name}
        if subprocess.run(command, env=environment, capture_output=True).returncode == 0:
            return name
    return RENDERERS[-1]
