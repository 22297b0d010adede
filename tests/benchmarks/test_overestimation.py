"""benchmarks/overestimation.py: discounted returns of fresh episodes, and Q where they begin."""

import csv
import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlsuite import envs
from rlsuite.algorithms.offline import iql, spot
from rlsuite.core.actors import BoundedActor
from rlsuite.core.critics import Critics

TASK = "InvertedPendulum-v4"  # a reward of 1 a step, until the pole falls


@pytest.fixture
def script(monkeypatch):
    from benchmarks import overestimation

    return overestimation


def test_only_the_first_episode_of_each_environment_counts(script):
    pool = envs.make(TASK, (0, 1), 3, "gymnasium")
    rngs = [np.random.default_rng(seed) for seed in (0, 1)]
    policy = BoundedActor(4, [-3.0], [3.0], rngs=rngs, hidden=(8,))
    played = script.play(policy, pool, np.arange(6).reshape(2, 3), 0.5)
    first = {}
    for episode in pool.episodes():
        first.setdefault((episode.seed, episode.copy), episode.length)
    pool.close()
    assert {place: played.lengths[place] for place in first} == first and len(first) == 6
    assert len(set(first.values())) > 1  # some ended earlier: others went on beside them
    assert np.array_equal(played.returns, played.lengths)
    # 1 + 1/2 + 1/4 + ... + 1/2^(L - 1) = 2 - 1/2^(L - 1)
    assert np.array_equal(played.discounted, 2 - 0.5 ** (played.lengths - 1.0))


def test_values_are_those_of_the_first_critic_at_the_first_steps(script):
    critics = Critics(1, 1, (2,))
    theta = torch.zeros(2, 2 * critics.layout.size)
    # Q_1 of slot 0: relu(obs) + 3 relu(action) + 10; all other critics are 0
    views = critics.layout.views(theta[:1, : critics.layout.size])
    views["q.0.weight"][0] = torch.eye(2)
    views["q.1.weight"][0] = torch.tensor([[1.0, 3.0]])
    views["q.1.bias"][0] = 10.0
    theta[:1, : critics.layout.size] = torch.cat([v.flatten(1) for v in views.values()], 1)
    obs = np.array([[[1.0], [3.0]]] * 2)
    action = np.array([[[2.0], [-1.0]]] * 2)
    played = SimpleNamespace(obs=obs, action=action)
    # (1 + 6 + 10 + 3 + 0 + 10) / 2 = 15
    assert script.first_values(critics, theta, played).tolist() == [15.0, 0.0]


def test_rewards_are_scaled_back_unless_they_were_shifted(script):
    data = SimpleNamespace(reward_scale=lambda span: span / (600 - 100))
    assert script.reward_scale(iql, iql.Config(), data) == 2.0  # 1000 / (600 - 100)
    shifted = iql.Config(scale_rewards=False, reward_shift=-1.0)
    assert script.reward_scale(iql, shifted, data) is None


def test_from_runs_to_rows(script, short_runs, tmp_path, capsys):
    runs = [short_runs.train(name, name, TASK) for name in ("bc", "td3_bc", "iql")]
    out = tmp_path / "rows.csv"
    script.main([*map(str, runs), "--episodes", "1", "--out", str(out)])
    assert capsys.readouterr().out.replace("\r", "") == out.read_text()
    with out.open(newline="") as stream:
        data, *rows = csv.DictReader(stream)
    assert (data["algorithm"], data["seed"], data["value"]) == ("data", "", "")
    assert float(data["episodes"]) * float(data["length"]) == pytest.approx(300, rel=0.01)
    named = [(row["algorithm"], row["seed"]) for row in rows]
    assert named == [(name, seed) for name in ("bc", "td3_bc", "iql") for seed in "01"]
    for row in rows:
        assert row["return"] == row["length"]
        expected = (1 - 0.99 ** float(row["length"])) / (1 - 0.99)
        assert float(row["discounted_return"]) == pytest.approx(expected, abs=0.05)
        assert (row["value"] == "") == (row["algorithm"] == "bc")
    assert {row["steps"] for row in rows} == {"200"} and data["steps"] == data["settings"] == ""
    made = json.loads(out.with_suffix(".json").read_text())
    assert made["command"].startswith(f"python -m benchmarks.overestimation {runs[0]} ")
    abouts = [json.loads((run / "config.json").read_text()) for run in runs]
    assert [run["config_hash"] for run in made["runs"]] == [x["config_hash"] for x in abouts]


def test_settings_are_the_presets_and_what_else_is_no_default(script):
    def settings(module, preset="d4rl", level="medium", uses=None, **config):
        made = json.loads(json.dumps(asdict(replace(module.Config(), **config))))
        data = {"dataset": f"deep-ope/hopper/{level}-v0"}
        about = dict(preset=preset, task="Hopper-v4", settings=data, config=made, uses=uses)
        return script.own_settings(module, about)

    # the preset sets it for Hopper
    assert settings(iql, gradient_steps=2000) == "scale_rewards True"
    assert (
        settings(iql, scale_rewards=True, temperature=0.3) == "temperature 0.3, scale_rewards True"
    )
    # the preset's lambda of hopper-medium is the default; a run without a preset has none to show
    assert settings(spot) == settings(spot, support_weight=0.1) == "support_weight 0.1"
    assert settings(spot, preset=None) == ""
    density = {"density": "a/folder"}
    assert (
        settings(spot, support_weight=1.0, uses={"density": {}}, **density) == "support_weight 1.0"
    )


def test_what_has_no_answer_is_refused(script, short_runs, capsys):
    folder = short_runs.train("ppo", "ppo", TASK)
    with pytest.raises(SystemExit):
        script.main([str(folder)])
    assert "ppo learned from no data; name runs that did" in capsys.readouterr().err
    (folder / "finished").unlink()
    with pytest.raises(SystemExit):
        script.main([str(folder)])
    assert "has not finished; name run folders that have" in capsys.readouterr().err
