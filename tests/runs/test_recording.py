"""Videos of saved policies, without a display."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from rlsuite import envs
from rlsuite.cli.main import main
from rlsuite.core.networks import ActorCritic
from rlsuite.core.saving import load_policy, save_policy, select_seed
from rlsuite.envs import tasks
from rlsuite.runs import recording
from rlsuite.runs.evaluation import evaluate
from rlsuite.runs.run import RunError


class Drawn(gymnasium.Env):
    """Actions -1, 0 and 1, written down; four steps long; pictures of one colour."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    observation_space = Box(-1, 1, (3,), np.float32)
    action_space = Discrete(3, start=-1)
    picture = np.zeros((32, 32, 3), np.uint8)
    given: list = []  # noqa: RUF012
    breaks_at = 0

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action):
        self.given.append(action)
        self.steps += 1
        if self.steps == self.breaks_at:
            raise OverflowError("the spring snapped")
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), 1.0, False, False, {}

    def render(self):
        return self.picture


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A folder with a policy of seeds 3 and 4 for Drawn-v0."""
    gymnasium.register("Drawn-v0", entry_point=Drawn, max_episode_steps=4)
    monkeypatch.setattr(Drawn, "given", [])
    rngs = [np.random.default_rng(seed) for seed in (3, 4)]
    policy = ActorCritic(3, 3, True, rngs=rngs, hidden=(4,))
    for name, weight in policy.layout.views(policy.theta).items():
        if name == "actor.1.weight":
            weight.mul_(1000)  # so that all three actions occur
    save_policy(policy, tmp_path / "policy", {"task": "Drawn-v0", "seeds": [3, 4]})
    yield tmp_path
    del gymnasium.registry["Drawn-v0"]


def frames(path: Path) -> int:
    import imageio

    return imageio.get_reader(path).count_frames()


def test_the_actions_on_video_are_those_of_an_evaluation(drawn) -> None:
    out = recording.record(drawn, drawn / "x.mp4", seed=4, episodes=2)
    filmed, Drawn.given = Drawn.given, []
    policy = select_seed(load_policy(drawn)[0], 1)
    for episode in range(2):
        evaluate(policy, envs.make("Drawn-v0", [4], 1), np.array([[episode]]))
    assert filmed == Drawn.given
    assert len(filmed) == 8
    assert {*filmed} <= {-1, 0, 1} and len({*filmed}) > 1
    # Two episodes of four steps: five pictures each
    assert frames(out) == 10


def test_a_video_that_fails_leaves_no_file_and_keeps_the_old_one(drawn, monkeypatch) -> None:
    out = drawn / "x.mp4"
    out.write_bytes(b"an earlier video")
    monkeypatch.setattr(Drawn, "breaks_at", 3)
    with pytest.raises(envs.EnvironmentFault, match=r"OverflowError: the spring snapped .*seed 3"):
        recording.record(drawn, out)
    assert out.read_bytes() == b"an earlier video"
    assert sorted(path.name for path in drawn.iterdir()) == ["policy", "x.mp4"]


def refused(folder: Path, out: str = "x.mp4", **options) -> str:
    """What `record` says, which must not write anything."""
    before = sorted(folder.rglob("*"))
    with pytest.raises((RunError, ValueError)) as caught:
        recording.record(folder, folder / out, **options)
    assert sorted(folder.rglob("*")) == before
    assert "libosmesa6" not in str(caught.value)  # which would not help
    return str(caught.value)


def test_what_cannot_be_drawn_says_why(drawn, monkeypatch) -> None:
    def broken(self):
        raise KeyError("texture")

    assert "x.txt does not end in .mp4, .mkv" in refused(drawn, "x.txt")
    assert "WalkerWalk-v1 cannot be drawn: it runs on EnvPool alone" in refused(
        drawn, task="WalkerWalk-v1"
    )
    assert "CartPole-v1 has other observations" in refused(drawn, task="CartPole-v1")
    assert "unknown task 'Drwn-v0': did you mean Drawn-v0" in refused(drawn, task="Drwn-v0")
    monkeypatch.setattr(Drawn, "picture", None)
    monkeypatch.setattr(Drawn, "metadata", {"render_modes": ["human"]})
    assert "its render() returned a NoneType, no picture [height, width, 3]" in refused(drawn)
    monkeypatch.setattr(Drawn, "render", broken)
    assert "Drawn-v0 cannot be drawn: KeyError: 'texture' (at " in refused(drawn)


def test_a_file_that_cannot_be_written_is_named(drawn) -> None:
    (drawn / "file").write_text("no folder")
    with pytest.raises(RunError, match=r"cannot write .*file/x.mp4 \(.*\); name another file"):
        recording.record(drawn, drawn / "file" / "x.mp4")


def test_only_a_renderer_that_fails_is_blamed(monkeypatch) -> None:
    def error() -> Exception:
        try:
            exec(compile("1 / 0", "/somewhere/mujoco/glue.py", "exec"))
        except ZeroDivisionError as error:
            return error

    monkeypatch.setattr(recording, "_renders", lambda name: False)
    assert "apt-get install libosmesa6" in recording._reason(error())
    monkeypatch.setattr(recording, "_renders", lambda name: True)
    assert recording._reason(error()).startswith("ZeroDivisionError: division by zero (at /somewh")


def test_a_policy_that_names_a_module_runs_none_of_its_code(drawn, monkeypatch) -> None:
    monkeypatch.setenv("RLSUITE_CACHE", str(drawn / "cache"))
    policy, about = load_policy(drawn)
    strange = {"task": "strange_module:Drawn-v0", "seeds": about["seeds"]}
    save_policy(policy, drawn / "policy", strange)
    monkeypatch.syspath_prepend(drawn)
    (drawn / "strange_module.py").write_text("raise SystemExit('this code was run')")
    assert "names the module 'strange_module', which was never typed here" in refused(drawn)


def test_video_has_as_many_frames_as_the_episode(short_runs, tmp_path, capsys) -> None:
    import imageio

    folder = short_runs.train("run", "ppo", "CartPole-v1")
    out = tmp_path / "policy.mp4"
    assert main(["record", str(folder), "--out", str(out), "--seed", "1"]) == 0
    frames = imageio.get_reader(out).count_frames()
    assert 2 <= frames <= 501
    assert imageio.get_reader(out).get_data(0).std() > 0, "an empty picture"


def test_seed_that_was_not_trained_is_refused(short_runs, tmp_path) -> None:
    folder = short_runs.train("run", "ppo", "CartPole-v1")
    with pytest.raises(RunError, match=r"seed 7 is not in .*; it has 0, 1"):
        recording.record(folder, tmp_path / "x.mp4", seed=7)
    assert not Path(tmp_path / "x.mp4").exists()


@pytest.mark.parametrize(
    ("task", "follows"), [("Hopper-v4", True), ("Reacher-v4", False), ("CartPole-v1", False)]
)
def test_the_camera_goes_along_where_the_model_has_one_that_does(task, follows) -> None:
    # Hopper's model has a camera called track; Reacher's, which stays where it is, has none
    env = gymnasium.make(task, disable_env_checker=True)
    assert recording._has_camera(env.unwrapped, "track") is follows
    env.close()


class TooFast(Drawn):
    """Pays nothing, and its second and fourth step break the constraint."""

    observation_space = Box(-1, 1, (3,), np.float32)
    picture = np.zeros((48, 96, 3), np.uint8)

    def render(self):
        return np.full_like(self.picture, 10 * self.steps)


def every_second_step(obs, action, next_obs, reward, signals):
    every_second_step.steps += 1
    return np.full((1, 1), 1.0 if every_second_step.steps % 2 == 0 else -1.0)


def test_violations_are_drawn_into_the_video_and_said(drawn, monkeypatch) -> None:
    gymnasium.register("TooFast-v0", entry_point=TooFast, max_episode_steps=4)
    monkeypatch.setattr(tasks, "ADDED", {})
    every_second_step.steps = 0
    speed = envs.Constraint("speed", 1, "episode")
    envs.constrain("Slow-v0", "TooFast-v0", None, speed, margin=every_second_step)
    shown, said = [], []

    @contextlib.contextmanager
    def kept(out, fps):
        yield SimpleNamespace(append_data=shown.append)

    monkeypatch.setattr(recording, "_video", kept)
    recording.record(drawn, drawn / "x.mp4", task="Slow-v0", say=said.append)
    del gymnasium.registry["TooFast-v0"]
    # A picture before the first step, then one of each of the four: 0, 1, 1 and 2 violations of
    # the 1 that an episode may have. Red: the steps that break it, the second and the fourth
    assert len(shown) == 5
    assert [tuple(picture[-1, -1]) == recording.RED for picture in shown] == [0, 0, 1, 0, 1]
    drawn_into = [bool((picture != 10 * step).any()) for step, picture in enumerate(shown)]
    assert drawn_into == [False, True, True, True, True]
    assert said == ["episode 1: return 4, 4 steps, speed 2 (limit 1)"]
