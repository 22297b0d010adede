"""A saved policy on video. Rendering is by software; no display is needed.

On tasks with constraints each picture tells the costs so far, as their limits measure them; its
frame is red while a step breaks a constraint, or once a limit is passed.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gymnasium
import numpy as np
from PIL import Image, ImageDraw

from rlsuite.core.saving import load_policy, select_seed
from rlsuite.envs import Constraint, Environments, Step
from rlsuite.envs.faults import explained
from rlsuite.envs.gymnasium_engine import GymnasiumPhysics, is_of_renderer, of_any_age
from rlsuite.envs.tasks import choose_engine, engine_id, find, require_typed
from rlsuite.runs.evaluation import DISCOUNT, Evaluation, evaluate, held
from rlsuite.runs.run import RunError

RENDERERS = ("egl", "osmesa")
RED = (200, 0, 30)
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


class Film:
    """Passes pictures on to `video`; the newest waits until its costs are known and drawn."""

    def __init__(self, video) -> None:
        self._video, self._waiting = video, None

    def append_data(self, picture: np.ndarray) -> None:
        """Take the next picture."""
        self.pass_on()
        self._waiting = picture

    def draw(self, lines: list[str], red: bool) -> None:
        """Write `lines` into the newest picture, in a frame if `red`."""
        image = Image.fromarray(np.asarray(self._waiting, np.uint8))
        pen, size = ImageDraw.Draw(image), max(10, image.height // 24)
        if red:
            pen.rectangle((0, 0, image.width - 1, image.height - 1), None, RED, size // 2)
        options = {"font_size": size, "stroke_width": 2, "stroke_fill": "black"}
        pen.multiline_text((size, size), "\n".join(lines), "white", **options)
        self._waiting = np.asarray(image)

    def pass_on(self) -> None:
        """Send what waits."""
        if self._waiting is not None:
            self._video.append_data(self._waiting)
            self._waiting = None


class Watched(Environments):
    """One environment whose costs are drawn into its film."""

    def __init__(self, film: Film, *given) -> None:
        super().__init__(*given)
        self._film = film

    def reset(self, env_seeds: np.ndarray, staggered: bool = False) -> np.ndarray:
        self._so_far, self._length = np.zeros((2, len(self.constraints))), 0
        return super().reset(env_seeds, staggered)

    def step(self, action: np.ndarray, active: np.ndarray | None = None) -> Step:
        result = super().step(action, active)
        if self.reports_cost:
            cost = result.cost[0, 0]
            self._so_far += cost, DISCOUNT**self._length * cost
            self._length += 1
            values = self._held()
            limits = [each.limit for each in self.constraints]
            over = any(map(_above, values, limits)) or (self.reports_margin and cost.any())
            self._film.draw(costs_text(values, self.constraints), bool(over))
        return result

    def _held(self) -> np.ndarray:
        """The costs [C] of the episode so far, as their limits measure them."""
        sums, discounted = self._so_far
        lengths = np.array(self._length)
        return held(sums, Evaluation(sums, sums, lengths, discounted), self.constraints)


def costs_text(values: np.ndarray, constraints: Sequence[Constraint]) -> list[str]:
    """ "velocity 13 (limit 25)", a line for each constraint."""
    lines = []
    for value, each in zip(values.tolist(), constraints, strict=True):
        limit = "" if each.limit is None else f" (limit {each.limit:g})"
        lines.append(f"{each.name} {value:.4g}{limit}")
    return lines


def _above(value: float, limit: float | None) -> bool:
    return limit is not None and value > limit


def record(
    folder: Path,
    out: Path,
    seed: int | None = None,
    episodes: int = 1,
    task: str | None = None,
    name: str = "",
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write a video of `episodes` episodes of the deterministic policy of `seed` (default: first).

    `say` is told what each of them earned and, where there are constraints, cost.

    They are what `evaluate` runs in environments seeded 0, 1, ...; `task` replaces the policy's
    own; `name` is the policy's in a run that has several. `out` is there only once it is whole.
    Raises RunError for a seed that was not trained, a task that cannot be drawn and a file that
    cannot be written; ValueError for a task that is unknown, was never typed or has other
    observations or actions.
    """
    policy, manifest = load_policy(folder, name)
    seeds = manifest["seeds"]
    if seed is not None and seed not in seeds:
        raise RunError(f"seed {seed} is not in {folder}; it has {', '.join(map(str, seeds))}")
    seed = seeds[0] if seed is None else seed
    policy = select_seed(policy, seeds.index(seed))
    if out.suffix.lower() not in SUFFIXES:
        raise RunError(f"{out} does not end in {', '.join(SUFFIXES)}; type: --out policy.mp4")
    if task is None:
        task = manifest["task"]
        require_typed(task, str(folder))
    fps, options = _drawable(task)
    with _video(out, fps) as video:
        film = Film(video)
        physics = GymnasiumPhysics(task, 1, wrap=lambda env: Filmed(env, film), **options)
        pool = Watched(film, physics, task, "gymnasium", [seed], 1)
        sizes = (policy.spec["obs_size"], policy.action_size, policy.discrete)
        if (pool.obs_size, pool.action_size, pool.discrete) != sizes:
            raise ValueError(f"{task} has other observations or actions than {manifest['task']}")
        for episode in range(episodes):
            result = evaluate(policy, pool, np.array([[episode]]))
            film.pass_on()
            told = [f"return {result.returns[0, 0]:.4g}", f"{result.lengths[0, 0]:.0f} steps"]
            if pool.reports_cost:
                values = held(result.costs, result, pool.constraints)[0, 0]
                told += costs_text(values, pool.constraints)
            say(f"episode {episode + 1}: {', '.join(told)}")
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
    if is_of_renderer(error) and not _renders(os.environ.get("MUJOCO_GL", "")):
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
