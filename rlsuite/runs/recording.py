"""A saved policy on video. Rendering is by software; no display is needed."""

import contextlib
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np

from rlsuite.core.saving import load_policy, select_seed
from rlsuite.envs import Environments
from rlsuite.envs.faults import explained
from rlsuite.envs.gymnasium_engine import GymnasiumPhysics, of_any_age
from rlsuite.envs.tasks import choose_engine, engine_id, find, require_typed
from rlsuite.runs.evaluation import evaluate
from rlsuite.runs.run import RunError

RENDERERS = ("egl", "osmesa")
SUFFIXES = (".mp4", ".mkv", ".mov", ".avi")


class Filmed(gymnasium.Wrapper):
    """Sends `video` a picture before the first step of each episode and after every step.

    None at a reset: the one that follows the last episode is not to be seen.
    """

    def __init__(self, env: gymnasium.Env, video) -> None:
        super().__init__(env)
        self.video = video

    def reset(self, **options):
        self.begun = False
        return self.env.reset(**options)

    def step(self, action):
        if not self.begun:
            self.begun = True
            self.video.append_data(self.env.render())
        result = self.env.step(action)
        self.video.append_data(self.env.render())
        return result


def record(
    folder: Path,
    out: Path,
    seed: int | None = None,
    episodes: int = 1,
    task: str | None = None,
    name: str = "",
) -> Path:
    """Write a video of `episodes` episodes of the deterministic policy of `seed` (default: first).

    They are what `evaluate` runs in environments seeded 0, 1, ...; `task` replaces the policy's
    own; `name` is the policy's in a run that has several. `out` is there only once it is whole.
    Raises RunError for a seed that was not trained, a task that cannot be drawn and a file that
    cannot be written; ValueError for a task that is unknown, was never typed or has other
    observations or actions.
    """
    policy, about = load_policy(folder, name)
    seeds = about["seeds"]
    if seed is not None and seed not in seeds:
        raise RunError(f"seed {seed} is not in {folder}; it has {', '.join(map(str, seeds))}")
    seed = seeds[0] if seed is None else seed
    policy = select_seed(policy, seeds.index(seed))
    if out.suffix.lower() not in SUFFIXES:
        raise RunError(f"{out} does not end in {', '.join(SUFFIXES)}; type: --out policy.mp4")
    if task is None:
        task = about["task"]
        require_typed(task, str(folder))
    fps, options = _drawable(task)
    with _video(out, fps) as video:
        physics = GymnasiumPhysics(task, 1, wrap=lambda env: Filmed(env, video), **options)
        pool = Environments(physics, task, "gymnasium", [seed], 1)
        sizes = (policy.spec["obs_size"], policy.action_size, policy.discrete)
        if (pool.obs_size, pool.action_size, pool.discrete) != sizes:
            raise ValueError(f"{task} has other observations or actions than {about['task']}")
        for episode in range(episodes):
            evaluate(policy, pool, np.array([[episode]]))
        pool.close()
    return out


@contextlib.contextmanager
def _video(out: Path, fps: float) -> Iterator:
    """A writer of pictures, whose file becomes `out` if all goes well and else goes away."""
    import imageio  # after the renderer is chosen, which must come before anything imports MuJoCo

    partial = out.with_name(f"{out.stem}.partial{out.suffix}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Pictures of the usual players have an even width and height
        video = imageio.get_writer(partial, fps=fps, macro_block_size=2)
        with contextlib.closing(video):  # by itself it stays open, and writes, after an error
            yield video
        os.replace(partial, out)
    except OSError as error:
        why = error.strerror or str(error).strip().splitlines()[-1]
        raise RunError(f"cannot write {out} ({why}); name another file: --out FILE.mp4") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _drawable(task: str) -> tuple[float, dict[str, str]]:
    """Pictures a second of `task`, and the options with which it draws them without a display."""
    known = find(task)
    if known and "gymnasium" not in known.engines:
        raise RunError(f"{task} cannot be drawn: it runs on EnvPool alone, which makes no pictures")
    choose_engine(task, 1, "gymnasium")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if not {"MUJOCO_GL", "DISPLAY"} & set(os.environ):
        os.environ["MUJOCO_GL"] = _renderer()
    options, name = {"render_mode": "rgb_array"}, engine_id(task)
    try:
        with of_any_age(name):
            env = gymnasium.make(name, disable_env_checker=True, **options)
            if _has_camera(env.unwrapped, "track"):  # it goes along; the default one stays behind
                env.close()
                options["camera_name"] = "track"
                env = gymnasium.make(name, disable_env_checker=True, **options)
        env.reset(seed=0)
        picture = env.render()
        fps = env.metadata.get("render_fps", 30)
        env.close()
    except Exception as error:  # drivers fail in many ways, and so do environments
        raise RunError(f"{task} cannot be drawn: {_reason(error)}") from error
    if not isinstance(picture, np.ndarray) or picture.ndim != 3:
        modes = env.metadata.get("render_modes", [])
        raise RunError(
            f"{task} cannot be drawn: its render() returned a {type(picture).__name__}, no picture "
            f"[height, width, 3]; in metadata, render_modes is {modes}: it needs rgb_array"
        )
    return fps, options


def _reason(error: Exception) -> str:
    """Why nothing was drawn: the renderer if MuJoCo's fails by itself, else what was raised."""
    files = [Path(frame.filename).parts for frame in traceback.extract_tb(error.__traceback__)]
    by_mujoco = any({"mujoco", "OpenGL"} & set(parts) for parts in files)
    if by_mujoco and not _renders(os.environ.get("MUJOCO_GL", "")):
        return (
            f"MuJoCo has no renderer that works ({type(error).__name__}: {error}); "
            "install one in software: apt-get install libosmesa6"
        )
    return explained(error)


def _has_camera(env, name: str) -> bool:
    """Whether `env` is a MuJoCo task whose model has a camera of this name."""
    if not hasattr(env, "model") or not hasattr(env, "mujoco_renderer"):
        return False
    import mujoco

    return mujoco.mj_name2id(env.model, mujoco.mjtObj.mjOBJ_CAMERA, name) >= 0


def _renderer() -> str:
    """The first software renderer that MuJoCo draws with: a library may be there and fail."""
    return next((name for name in RENDERERS if _renders(name)), RENDERERS[-1])


def _renders(name: str) -> bool:
    command = [sys.executable, "-c", "import mujoco; mujoco.GLContext(8, 8).make_current()"]
    environment = os.environ | {"MUJOCO_GL": name}
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0
