"""Runs that evaluate several policies, and evaluations with sampled actions beside the mode's."""

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from rlsuite.algorithms.on_policy import ppo
from rlsuite.cli.main import main
from rlsuite.core.networks import ActorCritic
from rlsuite.core.saving import load_policy
from rlsuite.envs import Constraint, constrain, make, tasks
from rlsuite.evidence import export, rows
from rlsuite.runs import run as runs
from rlsuite.runs.evaluation import evaluate_all

PENDULUM = "InvertedPendulum-v4"


@dataclass
class Pair:
    policy: ActorCritic
    other: ActorCritic


def train_two(config, run) -> None:
    """Two policies that move in different directions, in 4 iterations of 128 steps."""
    envs = run.environments(config.num_envs)
    first, second = (ActorCritic.of(envs, config, run.streams["init"]) for _ in range(2))
    pair = Pair(first, second)
    policies = {"evaluation": first, "target": second}
    run.begin(pair, train={"train": (config.iterations, config.rollout_size)}, policies=policies)
    for _ in run.stage("train"):
        first.theta += 0.01
        second.theta -= 0.02
        run.log({"loss": torch.zeros(len(run.seeds))})


@pytest.fixture
def two_policies(short_runs, monkeypatch):
    """Trains such a run of 2 seeds, evaluated and saved twice, under the name `ppo`."""
    monkeypatch.setattr(ppo, "train", train_two)
    options = {
        "env_steps": 512,
        "num_steps": 128,
        "evaluations": 2,
        "checkpoints": 2,
        "evaluation_episodes": 3,
    }
    return lambda name: short_runs.create(name, "ppo", PENDULUM, **options)


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "evaluations.csv", newline="") as file:
        return [
            {k: v for k, v in row.items() if k != "wall_seconds"} for row in csv.DictReader(file)
        ]


def test_every_policy_has_rows_and_episodes_of_its_own(two_policies) -> None:
    run = two_policies("run")
    runs.execute(run)
    found = table(run.folder)
    order = [(row["step"], row["policy"], row["seed"]) for row in found]
    names = ("evaluation", "target")
    assert order == [
        (step, name, seed) for step in ("256", "512") for name in names for seed in "01"
    ]
    with np.load(run.folder / "evaluations.npz") as raw:
        means = [raw["returns"].mean(2), raw["target_returns"].mean(2)]
    returns = np.array([float(row["return"]) for row in found]).reshape(2, 2, 2)
    np.testing.assert_allclose(returns, np.stack(means, 1))  # evaluations, policies, seeds
    assert (returns[:, 0] != returns[:, 1]).any()


def test_every_policy_is_saved_by_its_name(two_policies, capsys) -> None:
    run = two_policies("run")
    runs.execute(run)
    main_one, about = load_policy(run.folder)
    assert about["policy"] == "evaluation"
    assert torch.equal(load_policy(run.folder, "evaluation")[0].theta, main_one.theta)
    other, about = load_policy(run.folder, "target")
    assert (about["policy"], about["step"]) == ("target", 512)
    # Both began alike up to their draws; 4 iterations moved them by 0.04 and -0.08
    assert not torch.equal(other.theta, main_one.theta)
    command = ["evaluate", str(run.folder), "--episodes", "2"]
    assert main(command) == 0
    said = [capsys.readouterr().out]
    assert main([*command, "--policy", "target"]) == 0
    said.append(capsys.readouterr().out)
    assert said[0] != said[1]
    assert main([*command, "--policy", "tarjet"]) == 2
    told = capsys.readouterr().err
    assert "no policy 'tarjet'; type --policy evaluation or --policy target" in told


def test_a_killed_run_of_two_policies_repeats_an_unbroken_one(two_policies) -> None:
    whole, cut = two_policies("whole"), two_policies("cut")
    runs.execute(whole)
    log, count = cut.log, []

    def dies(*args):
        log(*args)
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt

    cut.log = dies
    with pytest.raises(KeyboardInterrupt):
        runs.execute(cut)
    runs.execute(runs.reopen(cut.folder))
    assert table(cut.folder) == table(whole.folder)
    for name in ("policy", "policy-target"):
        file = f"{name}/policy.safetensors"
        assert (cut.folder / file).read_bytes() == (whole.folder / file).read_bytes()


def test_a_further_policy_of_a_complete_run_is_restored(two_policies) -> None:
    run = two_policies("run")
    runs.execute(run)
    before = (run.folder / "policy-target/policy.safetensors").read_bytes()
    shutil.rmtree(run.folder / "policy-target")
    (run.folder / "policy-target.partial").mkdir()  # as a kill leaves it
    runs.execute(runs.reopen(run.folder))
    assert (run.folder / "policy-target/policy.safetensors").read_bytes() == before
    assert not (run.folder / "policy-target.partial").exists()


def test_rows_of_both_policies_are_exported_and_read(two_policies, tmp_path) -> None:
    run = two_policies("run")
    runs.execute(run)
    file = export.export(run.folder, tmp_path / "results")
    export.export(run.folder, tmp_path / "results")  # the same rows again
    assert file.read_text() == (run.folder / "evaluations.csv").read_text()
    main_one, other = rows.read(tmp_path / "results")
    assert (main_one.algorithm, other.algorithm) == ("ppo", "ppo (target)")
    assert [result.algorithm for result in rows.read(run.folder)] == ["ppo", "ppo (target)"]
    last = {row["policy"]: float(row["return"]) for row in table(run.folder) if row["seed"] == "1"}
    assert main_one.final("return")[1] == last["evaluation"]
    assert other.final("return")[1] == last["target"]


def test_policies_that_are_no_part_of_the_learner_are_refused(two_policies, monkeypatch) -> None:
    run = two_policies("run")
    begin = run.begin
    monkeypatch.setattr(run, "begin", lambda learner, **k: begin(learner, **k | {"policies": bad}))
    bad = {"evaluation": object()}
    with pytest.raises(ValueError, match="name fields of the learner"):
        runs.execute(run)


# ------------------------------------------------------------------------- sampled actions


class Speeding(gymnasium.Env):
    """4 steps that pay the action and cost 1 where it is above 0.5."""

    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Box(-2, 2, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), float(action[0]), False, False, {}


def too_fast(obs, action, next_obs, reward, signals):
    return np.stack([action[:, 0] > 0.5] * 3, 1).astype(float)


THREE = (
    Constraint("speed", 1, "episode"),
    Constraint("rate", 0.5, "step"),
    Constraint("soon", 1.5, "discounted"),
)


@pytest.fixture
def speeding(monkeypatch):
    gymnasium.register("Speeding-v0", entry_point=Speeding, max_episode_steps=4)
    monkeypatch.setattr(tasks, "ADDED", {})
    constrain("Limits-v0", "Speeding-v0", too_fast, *THREE)
    yield "Limits-v0"
    del gymnasium.registry["Speeding-v0"]


def steady(mean: float, std: float) -> ActorCritic:
    """Acts `mean` whatever it sees, or samples with `std`."""
    policy = ActorCritic(2, 1, False, rngs=[np.random.default_rng(0)], hidden=(4,))
    views = policy.layout.views(policy.theta)
    views["actor.1.weight"].zero_()
    views["actor.1.bias"].fill_(mean)
    views["log_std"].fill_(float(np.log(std)))
    return policy


def test_the_mode_and_samples_are_judged_by_every_kind_of_limit(speeding) -> None:
    # The mode, 1, is too fast in all 4 steps: a sum of 4, a mean of 1 a step, and discounted
    # 1 + 0.99 + 0.9801 + 0.970299 = 3.940399
    envs, env_seeds = make(speeding, [0], 50), np.arange(50)[None]
    both = evaluate_all({"": steady(1.0, 1.0)}, envs, env_seeds, twice=True)
    assert [*both] == ["", "sampled"]
    mode, sampled = both.values()
    assert (mode.costs == 4).all()
    np.testing.assert_allclose(mode.discounted, 3.940399)
    # A sample is above 0.5 with probability Phi(0.5) = 0.69, in 4 steps 2.77 times
    assert abs(sampled.costs.mean() - 2.77) < 0.5
    assert sampled.returns.std() > 0
    again = evaluate_all({"": steady(1.0, 1.0)}, envs, env_seeds, twice=True)["sampled"]
    np.testing.assert_array_equal(again.returns, sampled.returns)


def test_rows_hold_cost_per_step_and_the_share_within_limits(speeding, short_runs) -> None:
    folder = short_runs.train("run", "ppo", speeding, evaluation_episodes=20, seeds=(0,))
    row = table(folder)[-1]
    with np.load(folder / "evaluations.npz") as raw:
        costs, discounted = raw["sampled_costs"][-1, 0], raw["sampled_discounted_costs"][-1, 0]
        returns = raw["sampled_returns"][-1, 0]
    number = {name: float(value) for name, value in row.items() if value}
    assert number["sampled_return"] == pytest.approx(returns.mean())
    assert number["sampled_cost"] == pytest.approx(costs[:, 0].mean())
    assert number["sampled_cost_rate_per_step"] == pytest.approx(costs[:, 1].mean() / 4)
    assert number["sampled_cost_soon_discounted"] == pytest.approx(discounted[:, 2].mean())
    within = (costs[:, 0] <= 1) & (costs[:, 1] / 4 <= 0.5) & (discounted[:, 2] <= 1.5)
    assert number["sampled_within"] == pytest.approx(within.mean())
    assert number["length"] == number["sampled_length"] == 4


def test_all_that_training_paid_is_counted_once(speeding, short_runs, monkeypatch) -> None:
    # Every action costs: 2048 steps of the smoke preset pay 2048 for each constraint, those of
    # episodes that a checkpoint cuts, too
    def always(*transition):
        return np.ones((len(transition[0]), 1))

    constrain("Always-v0", "Speeding-v0", always, Constraint("step", 5, "episode"))
    whole = short_runs.train("whole", "ppo", "Always-v0", checkpoints=5, seeds=(0,))
    assert table(whole)[-1]["total_training_cost"] == "2048.0"
    run = short_runs.create("cut", "ppo", "Always-v0", checkpoints=5, seeds=(0,))
    log = run.log

    def dies(*args):
        log(*args)
        if run.step == 1024:
            raise KeyboardInterrupt

    run.log = dies
    with pytest.raises(KeyboardInterrupt):
        runs.execute(run)
    runs.execute(runs.reopen(run.folder))
    assert table(run.folder) == table(whole)


def test_nothing_is_sampled_where_there_is_no_constraint(short_runs) -> None:
    folder = short_runs.train("run", "ppo", PENDULUM)
    assert not [name for name in table(folder)[0] if name.startswith("sampled")]
    with np.load(folder / "evaluations.npz") as raw:
        assert sorted(raw) == ["costs", "lengths", "returns", "seeds", "steps"]
