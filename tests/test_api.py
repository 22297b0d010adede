"""rlsuite from Python: training in an environment of one's own, and acting with what it learned."""

import json
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

import rlsuite
from rlsuite.cli.main import main
from rlsuite.core.beta import BetaActorCritic
from rlsuite.core.chunks import ChunkPolicy
from rlsuite.core.closed_form import ClosedFormPolicy
from rlsuite.core.networks import ActorCritic
from rlsuite.core.saving import save_policy
from rlsuite.core.spaces import Spaces

SHORT = {"preset": "smoke", "env_steps": 128, "num_steps": 64, "evaluations": 1}
SHORT |= {"evaluation_episodes": 1, "seeds": (3, 5), "checkpoints": 2}


class Lights(gymnasium.Env):
    """Two switches of three positions; it pays to turn both to where the lights say."""

    observation_space = Dict(where=Box(0, 2, (2,)), age=Box(0, 9, (1,)))
    action_space = MultiDiscrete([3, 3], start=[1, 1])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return self._observed(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.age += 1
        paid = float((action - 1 == self.where).sum())
        return self._observed(), paid, self.age == 8, False, {}

    def _observed(self):
        self.where = self.np_random.integers(3, size=2)
        return {"where": self.where.astype(np.float32), "age": np.array([self.age], np.float32)}


def rngs(count: int = 2) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def test_importing_rlsuite_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'gymnasium', 'rlsuite.api'} & set(sys.modules)"
    code = f"import sys, rlsuite; sys.exit(bool({heavy}) or 'train' not in rlsuite.__all__)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_run_in_an_unregistered_environment_from_a_notebook(tmp_path, capsys, monkeypatch):
    """Trained, looked at, acted with; another process refuses it, and Python goes on with it."""
    folder = tmp_path / "run"
    run = rlsuite.train("ppo", env=lambda: Lights(), folder=folder, **SHORT)
    assert run.folder == folder
    about = json.loads((folder / "config.json").read_text())
    assert (about["task"], about["unregistered"]) == ("unregistered/Lights", True)
    assert about["command"].startswith("rlsuite.train('ppo', env=")
    assert about["spaces"]["parts"] == [[["age"], [1]], [["where"], [2]]]  # keys in order
    assert [(row["seed"], row["step"]) for row in run.rows] == [(3, 128), (5, 128)]
    assert all(isinstance(row["return"], float) and row["score"] is None for row in run.rows)
    assert len(run.progress) == 2 * 2  # iterations, seeds

    env, policy = Lights(), run.load_policy(seed=5)
    obs, _ = env.reset(seed=0)
    action = policy.act(obs)
    assert env.action_space.contains(action)
    both = {key: np.stack([value, value]) for key, value in obs.items()}
    np.testing.assert_array_equal(policy.act(both), [action, action])
    flat = np.concatenate([obs["age"], obs["where"]])  # as the policy sees it
    np.testing.assert_array_equal(policy.act(flat), action)
    with pytest.raises(ValueError, match="the observation has no 'age'"):
        policy.act({"where": obs["where"]})

    monkeypatch.delitem(gymnasium.registry, "unregistered/Lights")
    assert main(["train", "--resume", str(folder)]) == 2
    assert main(["evaluate", str(folder)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert sum("go on with rlsuite.train(resume=FOLDER, env=...)" in line for line in said) == 2
    assert rlsuite.train(resume=folder, env=Lights).rows == run.rows  # it had finished
    monkeypatch.delitem(gymnasium.registry, "unregistered/Lights")


def test_a_named_task_is_trained_as_by_the_command(tmp_path, monkeypatch) -> None:
    """The same config and the same numbers, whichever of the two begins the run."""
    monkeypatch.chdir(tmp_path)
    given = {"env_arg": {"sutton_barto_reward": True}, "time_limit": 9, **SHORT}
    run = rlsuite.train("ppo", env="CartPole-v1", folder="a", hidden=(8,), **given)
    about = json.loads((run.folder / "config.json").read_text())
    words = about["command"].split()
    assert main([*words[1:], "--folder", "b"]) == 0
    other = json.loads((tmp_path / "b/config.json").read_text())
    assert about["config_hash"] == other["config_hash"]
    assert about["task"] == "CartPole-v1,max_episode_steps=9,sutton_barto_reward=True"
    assert {row["length"] for row in run.rows} <= set(range(10))
    assert (tmp_path / "a/policy/policy.safetensors").read_bytes() == (
        tmp_path / "b/policy/policy.safetensors"
    ).read_bytes()


def make_once(env=Lights()):  # noqa: B008 (the fault that the test is about)
    return env


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, 'which algorithm. write rlsuite.train."ppo"'),
        ({"algorithm": "pppo", "env": "CartPole-v1"}, "algorithm 'pppo' is unknown"),
        ({"algorithm": "ppo", "env": "CartPole-v1", "learning_rat": 1.0}, "mean --learning-rate"),
        ({"algorithm": "ppo", "env": "CartPole-v1", "clip": -1.0}, "clip is -1.0"),
        ({"algorithm": "ppo", "env": "CartPole-v1", "env_arg": {"g g": 1}}, "is not NAME=VALUE"),
        ({"algorithm": "ppo", "env": Lights()}, "a function that makes a gymnasium.Env"),
        ({"algorithm": "ppo", "env": lambda: 3}, "it gave 3"),
        ({"algorithm": "ppo", "env": lambda: 1 / 0}, "cannot be created: ZeroDivisionError"),
        ({"algorithm": "ppo", "env": make_once}, "the same environment twice"),
        ({"resume": "nowhere"}, "is not a run folder"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(given, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, RuntimeError), match=message):
        rlsuite.train(**given)
    assert list(tmp_path.iterdir()) == []


def saved(folder, policy, task="InvertedPendulum-v4", **more):
    save_policy(
        policy, folder / "policy", {"task": task, "seeds": [4, 7], "algorithm": "x", **more}
    )
    return folder


def spaces(low: float = -3.0, high: float = 3.0) -> dict:
    box = np.array([low]), np.array([high])
    return Spaces.box((((), (4,)),), (1,), *box, np.float32).to_json()


def test_actions_are_those_that_the_environment_takes(tmp_path) -> None:
    """Clipped to its bounds, a Beta's stretched to them; samples are repeated by their seed."""
    wide = ActorCritic(4, 1, False, rngs=rngs(), hidden=(8,), log_std_init=3.0)
    beta = BetaActorCritic(4, 1, False, rngs=rngs(), hidden=(8,))
    obs = np.random.default_rng(0).standard_normal((50, 4))
    for name, policy in (("wide", wide), ("beta", beta)):
        acting = rlsuite.load_policy(saved(tmp_path / name, policy, spaces=spaces(2, 6)), seed=7)
        acting.reset(seed=9)
        first = acting.act(obs, sample=True)
        assert first.dtype == np.float32 and first.shape == (50, 1)
        assert (first >= 2).all() and (first <= 6).all() and first.std() > 0.1
        assert not np.array_equal(acting.act(obs, sample=True), first)
        acting.reset(seed=9)
        np.testing.assert_array_equal(acting.act(obs, sample=True), first)
        chosen = acting.act(obs)
        np.testing.assert_allclose(acting.act(obs[3]), chosen[3], rtol=1e-6)
        _, applied = policy.behaviour(np.float32([2]), np.float32([6])).act(np.stack([obs, obs]))
        np.testing.assert_allclose(chosen, applied[1], rtol=1e-6)  # seed 7 is the second


def test_discrete_actions_are_counted_as_the_environment_counts(tmp_path) -> None:
    policy = ActorCritic(4, 2, True, rngs=rngs(), hidden=(8,))
    counted = Spaces.counted((((), (2, 2)),), (), 2, 5, np.int64).to_json()
    acting = rlsuite.load_policy(saved(tmp_path, policy, spaces=counted))
    assert acting.seed == 4
    space = Discrete(2, start=5)
    assert space.contains(acting.act(np.ones((2, 2))))  # observations of two rows
    assert acting.act(np.ones((9, 2, 2))).shape == (9,)


def chunks() -> ChunkPolicy:
    form = {"obs_size": 4, "low": [-3.0], "high": [3.0], "running": False, "chunk": 4, "acting": 3}
    form |= {"hidden": [16, 16, 16], "condition": [], "nonlinearity": "relu", "residual": False}
    form |= {"time_dim": 8, "steps": 4, "ddim": 0, "tuned": 2, "least_std": 0.1}
    return ChunkPolicy(rngs=rngs(), std_init=None, std_most=1.0, **form)


def closed_form() -> ClosedFormPolicy:
    shape = {"hidden": (8,), "base": "mixture", "components": 2, "critic_hidden": (8, 8)}
    ends = [-3.0], [3.0]
    return ClosedFormPolicy(4, *ends, rngs=rngs(), distributional=False, operator="better", **shape)


def test_a_chunk_is_acted_out_until_the_episode_ends(tmp_path) -> None:
    """Of 3 actions: the queue does not look at what it sees, a reset does."""
    acting = rlsuite.load_policy(saved(tmp_path, chunks(), spaces=spaces()))
    obs = np.random.default_rng(0).standard_normal((2, 4))

    def play() -> np.ndarray:
        acting.reset(seed=1)
        first = acting.act(obs)
        return np.stack([first, acting.act(obs + 1)])

    np.testing.assert_array_equal(play(), play())
    acting.reset(seed=1)
    acting.act(obs)
    acting.reset([False, True])  # the second environment decides anew
    second = acting.act(obs + 1)
    assert second[0] == play()[1, 0] and second[1] != play()[1, 1]
    with pytest.raises(ValueError, match="ended has 3 flags, the policy acts in 2"):
        acting.reset([True] * 3)


def test_a_closed_form_step_acts_too_and_old_policies_ask_their_task(tmp_path) -> None:
    """Saved without spaces, as older versions did: the task has them."""
    acting = rlsuite.load_policy(saved(tmp_path, closed_form()))
    action = acting.act(np.zeros(4))
    assert action.shape == (1,) and action.dtype == np.float32 and abs(action[0]) <= 3


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (np.zeros(5), r"an observation has shape \[4\], or N in front; got \[5\]"),
        (np.zeros((1, 1, 4)), r"got \[1, 1, 4\]"),
        (np.full(4, np.nan), "has a number that is not finite"),
    ],
)
def test_observations_that_are_none_are_refused(obs, message, tmp_path) -> None:
    policy = ActorCritic(4, 1, False, rngs=rngs(), hidden=(8,))
    acting = rlsuite.load_policy(saved(tmp_path, policy, spaces=spaces()))
    with pytest.raises(ValueError, match=message):
        acting.act(obs)


def test_a_seed_that_was_not_trained_is_refused(tmp_path) -> None:
    folder = saved(tmp_path, closed_form())
    with pytest.raises(ValueError, match=r"seed 5 is not in .*; it has 4, 7"):
        rlsuite.load_policy(folder, seed=5)


@pytest.mark.parametrize(
    "change",
    [{"parts": []}, {"dtype": "text"}, {"low": [-1, 1]}, {"parts": [[[], [9]]]}, {"choices": [2]}],
)
def test_spaces_that_are_not_the_policys_are_refused(change, tmp_path) -> None:
    policy = ActorCritic(4, 1, False, rngs=rngs(), hidden=(8,))
    folder = saved(tmp_path, policy, spaces=spaces() | change)
    with pytest.raises(ValueError, match="spaces are"):
        rlsuite.load_policy(folder)
