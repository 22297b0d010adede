"""The best policy of each seed is kept beside the last one."""

import json

import numpy as np
import pytest
import torch

from rlsuite.cli.main import main
from rlsuite.core.networks import ActorCritic
from rlsuite.core.saving import load_policy
from rlsuite.envs import Constraint
from rlsuite.runs import evaluation
from rlsuite.runs import run as runs
from rlsuite.runs.best import Best
from rlsuite.runs.evaluation import Evaluation

PENDULUM = "InvertedPendulum-v4"
# 4 iterations of 128 steps, an evaluation after each; checkpoints after the second and the fourth
SHORT = {"env_steps": 512, "num_steps": 128, "checkpoints": 2, "evaluations": 4}


def result(returns, costs=None) -> Evaluation:
    """Two episodes of each seed that earn, and cost, the same."""
    both = np.repeat(np.array(returns, float)[:, None], 2, 1)
    paid = np.zeros((len(both), 2, 0)) if costs is None else np.array(costs, float)[:, None, None]
    return Evaluation(both, np.repeat(paid, 2 if costs is not None else 1, 1), np.ones(both.shape))


def policy() -> ActorCritic:
    return ActorCritic(4, 1, False, rngs=[np.random.default_rng(s) for s in (0, 1)], hidden=(8,))


def kept(best: Best) -> list[int]:
    return [each["step"] for each in best.found]


def test_each_seed_keeps_its_own_best_policy() -> None:
    """Seed 0 is best at step 1, seed 1 at step 2; NaN is no better than anything."""
    trained = policy()
    best = Best(trained, (3, 4))
    best.take(trained, 1, result([5, 1]), ())
    then = trained.theta.clone()
    trained.theta += 1
    trained.normalizer.observe(np.ones((2, 3, 4)))
    best.take(trained, 2, result([4, 2]), ())
    best.take(trained, 3, result([np.nan, 2]), ())
    assert kept(best) == [1, 2]
    assert torch.equal(best.policy.theta[0], then[0])
    assert torch.equal(best.policy.theta[1], trained.theta[1])
    assert best.policy.normalizer.mean[:, 0].tolist() == [0.0, trained.normalizer.mean[1, 0]]


def test_a_policy_within_the_limits_goes_before_one_that_earns_more() -> None:
    """Limit 10: seed 0 breaks it where it earns most, seed 1 always, and is best where it earns."""
    limits = [Constraint("speed", 10, "episode")]
    best = Best(policy(), (0, 1))
    for step, returns, costs in (
        (1, [9, 1], [20, 30]),
        (2, [3, 2], [10, 20]),
        (3, [8, 1], [11, 11]),
    ):
        best.take(policy(), step, result(returns, costs), limits)
    assert kept(best) == [2, 2]
    assert [each["within"] for each in best.found] == [True, False]


def test_the_best_is_saved_evaluated_and_the_same_after_a_kill(
    short_runs, monkeypatch, capsys
) -> None:
    """Returns of the evaluations are made to fall: the first policy stays the best."""
    count = {"value": 0}

    def falling(policy, envs, env_seeds, rngs=None):
        count["value"] += 1
        return result(np.array([-count["value"], 7 + (count["value"] == 3)]))

    monkeypatch.setattr(evaluation, "evaluate", falling)
    whole = short_runs.train("whole", "ppo", PENDULUM, keep_best=True, **SHORT)
    plain = short_runs.train("plain", "ppo", PENDULUM, **SHORT)
    files = [folder / "policy/policy.safetensors" for folder in (whole, plain)]
    assert files[0].read_bytes() == files[1].read_bytes()
    found, about = load_policy(whole, "best")
    assert [(each["seed"], each["step"]) for each in about["best"]] == [(0, 128), (1, 384)]
    last = load_policy(whole)[0]
    assert not torch.equal(found.theta[0], last.theta[0])

    count["value"] = 0
    run = short_runs.create("run", "ppo", PENDULUM, keep_best=True, **SHORT)
    log = run.log

    def killed(*args) -> None:
        log(*args)
        if run.step == 384:
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "log", killed)
    with pytest.raises(KeyboardInterrupt):
        runs.execute(run)
    runs.execute(runs.reopen(run.folder))
    again = (run.folder / "policy-best/policy.safetensors").read_bytes()
    assert again == (whole / "policy-best/policy.safetensors").read_bytes()
    monkeypatch.undo()
    assert main(["evaluate", str(whole), "--policy", "best", "--episodes", "1"]) == 0
    assert "over 2 seeds" in capsys.readouterr().out
    hashes = [json.loads((x / "config.json").read_text())["config_hash"] for x in (whole, plain)]
    assert hashes[0] == hashes[1]
