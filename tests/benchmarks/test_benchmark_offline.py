"""benchmarks/offline*.py: the arithmetic by hand, and that the peers do the same update."""

import csv
import dataclasses
import json
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from rlsuite.algorithms.offline import td3_bc
from rlsuite.core.actors import BoundedActor
from rlsuite.core.buffers import TransitionBatch, chunks
from rlsuite.core.critics import Critics
from rlsuite.core.optim import Net
from rlsuite.core.streams import Streams

# What the benchmark uses of CORL's file, and no more: its trainer says what it was given
LIKE_CORL = """
import d4rl, gym, pyrallis, wandb
from dataclasses import dataclass
import torch

@dataclass
class TrainConfig:
    seed: "int" = 0

def compute_mean_std(states, eps):
    return states.mean(0), states.std(0) + eps

def normalize_states(states, mean, std):
    return (states - mean) / std

class Actor(torch.nn.Linear):
    def __init__(self, state_dim, action_dim, max_action):
        super().__init__(state_dim, action_dim)

class Critic(torch.nn.Linear):
    def __init__(self, state_dim, action_dim):
        super().__init__(state_dim + action_dim, 1)

class ReplayBuffer:
    def __init__(self, state_dim, action_dim, buffer_size):
        self.size = buffer_size

    def load_d4rl_dataset(self, data):
        self.data = data

    def sample(self, batch_size):
        return self.size, self.data, batch_size

class TD3_BC:
    def __init__(self, **given):
        self.given = given

    def train(self, batch):
        return self.given, batch

@pyrallis.wrap()
def train(config: TrainConfig, env: gym.Env):
    wandb.init()
"""


@pytest.fixture
def module(monkeypatch):
    return import_module


@pytest.fixture
def offline(module):
    return module("benchmarks.offline")


@pytest.fixture
def plans(module):
    return module("benchmarks.offline_plan")


def measured(name: str, *rates: float, steps: int = 50, **process: object) -> dict:
    rounds = [{"steps_per_second": rate, "processes": [process]} for rate in rates]
    about = {"task": "any", "name": name, "processes": [{"steps": steps}], "ready": [{}]}
    return about | {"rounds": rounds}


# ------------------------------------------------------------------------------------ the plan


@pytest.mark.parametrize("peers", [["plain"], ["plain", "corl", "d3rlpy"]])
@pytest.mark.parametrize("quick", [False, True])
def test_every_contestant_is_asked_about(plans, quick, peers):
    plan = plans.QUICK if quick else plans.Plan()
    asked = plans.questions(plan, peers)
    compared = {name for ours, against, _ in asked for name in (*ours, *against)}
    assert compared == set(plans.contestants(plan, peers))


def test_two_processes_have_half_of_the_seeds_and_a_core_each(plans):
    found = plans.contestants(plans.Plan(), ["corl"])
    # 2 modes x (1 seed on 1 and 2 threads; 4 and 10 seeds on these and halved), 3 of the peer
    assert len(found) == 2 * (2 + 3 + 3) + 3
    halves = found["10 seeds, compiled, 2 processes of 1 core"]
    assert [(p["seeds"], p["threads"], p["cores"], p["compile"]) for p in halves] == [
        (5, 1, [core], "on") for core in plans.CORES
    ]
    (whole,) = found["4 seeds, eager, 2 threads"]
    assert (whole["seeds"], whole["threads"], whole["cores"], whole["compile"]) == (
        *(4, 2, plans.CORES, "off"),
    )
    theirs = found["CORL, 2 processes of 1 core"]
    assert [(p["who"], p["threads"], p["cores"]) for p in theirs] == [
        ("corl", 1, [core]) for core in plans.CORES
    ]


def test_targets_are_for_two_threads_against_corl_at_its_best(plans):
    targets = [q for q in plans.questions(plans.Plan(), ["plain", "corl", "d3rlpy"]) if q[2]]
    corl = ["CORL, 1 thread", "CORL, 2 threads"]
    assert targets == [
        (["1 seed, eager, 2 threads", "1 seed, compiled, 2 threads"], corl, 1.7),
        (["4 seeds, eager, 2 threads", "4 seeds, compiled, 2 threads"], corl, 2.3),
    ]


# ------------------------------------------------------------------------------ the arithmetic


def test_milliseconds_are_those_of_one_gradient_step(offline):
    profile = {"data": 0.1, "learning": 1.9}
    ours = measured("ours", 90.0, 110.0, iterations=4, seconds=2.0, profile=profile)
    # Two rounds of 4 iterations of 50 steps: 2 x 2 s / 400 = 10 ms, of which 0.5 and 9.5
    assert offline.rate_row(ours) == ("ours", "100", "90-110", "10.00", "0.50", "9.50")
    corl = measured("CORL", 25.0, 25.0, iterations=1, seconds=2.0, profile={})
    assert offline.rate_row(corl) == ("CORL", "25", "25-25", "40.00", "", "")  # 4 s / 100 steps


def test_quoted_peers_are_ranges_and_ours_is_ahead_level_or_behind(offline, monkeypatch):
    monkeypatch.setattr(offline, "QUOTED", {"fast": (None, 600), "slow": (150, 300)})
    monkeypatch.setattr(offline, "QUOTED_CORL", (100, 200))
    # fast: 600 / 200 = 3 to 600 / 100 = 6 times CORL; slow: 1.5 to 3
    lines = offline.quoted([{"ours": "1 seed", "median": 2.0}, {"ours": "4 seeds", "median": 3.5}])
    assert lines.splitlines()[0].endswith("| ours here, 1 seed | ours here, 4 seeds |")
    assert lines.splitlines()[2:] == [
        "| fast |  | 600 | 3.0-6.0 | 2.0, behind | 3.5, level |",
        "| slow | 150 | 300 | 1.5-3.0 | 2.0, level | 3.5, ahead |",
    ]


def hand_made(_task: str, everyone: dict, *_) -> list[dict]:
    """Peers 100; ours 200, 10 more a seed, 1 more compiled, and twice that in the second round."""
    found = []
    for name, specs in everyone.items():
        spec, rates = specs[0], (100.0, 100.0)
        if spec["who"] == "ours":
            rate = 200.0 + 10.0 * spec["seeds"] + (spec["compile"] == "on")
            rates = (rate, 2 * rate)
        process = {"iterations": 1, "seconds": 1.0, "profile": {"data": 0.25, "learning": 0.75}}
        found.append(measured(name, *rates, **process))
    return found


def test_three_files_are_written(offline, monkeypatch, tmp_path, capsys):
    corl = tmp_path / "corl.py"
    corl.write_text("class TD3_BC: pass")
    monkeypatch.setenv("CORL_FILE", "")  # so that it is put back
    monkeypatch.setattr(offline.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(offline, "measure", hand_made)
    monkeypatch.setattr(
        offline, "compile_seconds", lambda _: {"seeds": 4, "cold": 30.2, "cached": 3.4}
    )
    monkeypatch.setattr(offline, "FOLDER", tmp_path / "speed")
    offline.main(["--corl", str(corl)])
    assert "pip install d3rlpy" in capsys.readouterr().out
    with (tmp_path / "speed/offline.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["TD3+BC", "against", "Ratio", "Range", "Target"]
    assert len(rows) == 2 * 8  # plain loop and CORL, each with 2 + 3 + 3 questions
    # 1 seed: 211 and 422 against 100, median 3.165; 4 seeds: 241 and 482, median 3.615
    assert [row for row in rows if row[-1]] == [
        ["1 seed, compiled, 2 threads", "CORL, 1 thread", "3.2", "2.1-4.2", "1.7, reached"],
        ["4 seeds, compiled, 2 threads", "CORL, 1 thread", "3.6", "2.4-4.8", "2.3, reached"],
    ]
    page = (tmp_path / "speed/offline.md").read_text()
    assert "| 1 seed, eager, 1 thread | 315 | 210-420 | 20.00 | 5.00 | 15.00 |" in page
    assert "Peers in JAX: not measured here" in page
    # 578 / 218 = 2.65 to 578 / 171 = 3.38; ours 3.165, 3.615 and (301 + 602) / 200 = 4.515
    assert "| unifloral | 386 | 578 | 2.7-3.4 | 3.2, level | 3.6, ahead | 4.5, ahead |" in page
    assert "Compiling the update of 4 seeds took 30 s" in page
    results = json.loads((tmp_path / "speed/offline.json").read_text())
    assert str(tmp_path) not in json.dumps(results)  # no path of the machine it was measured on
    assert results["versions"]["corl"].startswith("sha256 ")


def test_quick_writes_nothing(offline, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(offline, "measure", hand_made)
    monkeypatch.setattr(offline, "FOLDER", tmp_path)
    offline.main(["--quick"])
    assert not list(tmp_path.iterdir()) and "# Speed of TD3+BC" in capsys.readouterr().out


@pytest.mark.parametrize("text", [None, "class IQL: pass"])
def test_another_file_than_corls_is_refused_before_anything_runs(
    offline, monkeypatch, tmp_path, capsys, text
):
    file = tmp_path / "iql.py"
    if text:
        file.write_text(text)
    monkeypatch.setattr(offline, "run", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(SystemExit):
        offline.main(["--corl", str(file)])
    assert "iql.py is not CORL's algorithms/offline/td3_bc.py" in capsys.readouterr().err


def test_an_update_that_did_not_compile_is_named(offline):
    failed = measured("4 seeds, compiled, 1 thread", 1.0, iterations=1, seconds=1.0, profile={})
    failed["ready"] = [{"failed": ["not compiled (no g++): plain PyTorch"]}]
    about = {"hardware": {"cpu": "any", "cores": 2}, "cores": [0, 1], "versions": {}, "about": ""}
    about |= {"command": "", "rounds": 1, "wall_seconds": 1.0, "compile_seconds": None}
    page = offline.markdown(about | {"ratios": [], "measurements": [failed]})
    expected = "4 seeds, compiled, 1 thread was measured, but not compiled (no g++): plain PyTorch."
    assert page.endswith(expected + "\n")


# --------------------------------------------------------------------------------- the contestants


def batches(rng: np.random.Generator, seeds: int, rows: int, obs_size: int, action_size: int):
    """A TransitionBatch [S, B, ...] and noise [S, B, A], float64."""
    obs, next_obs = rng.standard_normal((2, seeds, rows, obs_size))
    action = rng.uniform(-1, 1, (seeds, rows, action_size))
    noise = 3 * rng.standard_normal(action.shape)  # 0.2 x 3 = 0.6: many are cut at 0.5
    reward, ended = rng.standard_normal((seeds, rows)), rng.random((seeds, rows)) < 0.2
    fields = [torch.tensor(x).double() for x in (obs, action, reward, next_obs, ended)]
    return TransitionBatch(*fields), torch.tensor(noise)


def test_the_plain_loop_does_the_same_update(module):
    plain, config, sizes = module("benchmarks.offline_peers"), td3_bc.Config(), (17, 6)
    rngs = Streams((0, 1))["init"]
    policy = BoundedActor(17, [-1] * 6, [1] * 6, rngs=rngs)
    critics = Critics(*sizes, config.hidden)
    # In float64: Adam divides rounding errors by gradients that may be as small. Twice the initial
    # weights: actions near the edges of the box, so that it matters where they are cut
    actor, critic = 2 * policy.theta.detach().double(), critics.initial(rngs).double()
    before = td3_bc.State(Net.of(actor), Net.of(critic), actor.clone(), critic.clone())
    batch, noise = batches(np.random.default_rng(0), 2, 2 * 16, *sizes)
    after, _ = td3_bc.actor_cycle(policy, critics, config, before, batch, noise)
    for seed in (0, 1):
        learner = plain.PlainTD3BC(*sizes)
        for networks in (learner.networks.double(), learner.targets.double()):
            vector_to_parameters(torch.cat([actor[seed], critic[seed]]), networks.parameters())
        for part, eps in zip(chunks(batch, 2), noise.chunk(2, 1), strict=True):
            obs, action, reward, next_obs, ended = (x[seed] for x in part)
            learner.train(obs, action, reward[:, None], next_obs, ended[:, None], eps[seed])
        for networks, ours in (
            (learner.networks, torch.cat([after.actor.theta[seed], after.critic.theta[seed]])),
            (learner.targets, torch.cat([after.actor_target[seed], after.critic_target[seed]])),
        ):
            error = (parameters_to_vector(networks.parameters()) - ours).abs()
            # Our learning rate is 3e-4 rounded to float32, 5e-8 of it more: 1.4e-11 a step, but
            # where a gradient is as small as Adam's eps, 1e-8, what follows from it is larger
            assert error.max() < 1e-5 and error.median() < 1e-10
    # The update itself is larger: Adam's first step moves nearly every parameter by 3e-4, and the
    # targets follow by 0.005 of it, 1.5e-6
    for index, least in ((0, 2e-4), (1, 2e-4)):
        assert (after[index].theta - before[index].theta).abs().median() > least
    for index, least in ((2, 1e-6), (3, 1e-6)):
        assert (after[index] - before[index]).abs().median() > least


def test_the_plain_loop_draws_standardised_batches(module, monkeypatch):
    plain, drawn = module("benchmarks.offline_peers"), []
    monkeypatch.setattr(plain.PlainTD3BC, "train", lambda _, *batch: drawn.append(batch))
    data = module("benchmarks.offline_contestants").synthetic()
    moved = dataclasses.replace(data, obs=5 * data.obs + 7, next_obs=5 * data.next_obs + 7)
    step = plain.plain(moved)
    for _ in range(4):
        step()
    assert [tuple(x.shape) for x in drawn[0]] == [(256, n) for n in (17, 6, 1, 17, 1, 6)]
    for column in (0, 3, 5):  # obs, next_obs, noise: mean 0, standard deviation 1
        values = torch.cat([batch[column] for batch in drawn])
        assert values.mean().abs() < 0.1 and (values.std() - 1).abs() < 0.1
    assert not torch.equal(drawn[0][0], drawn[1][0])


def test_corls_file_is_used_without_the_packages_it_imports(module, monkeypatch, tmp_path):
    peers, contestants = (
        module("benchmarks.offline_peers"),
        module("benchmarks.offline_contestants"),
    )
    for name in (*peers.CORL_IMPORTS, "corl_td3_bc"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it would fail; put back afterwards
    (tmp_path / "like_corl.py").write_text(LIKE_CORL)
    monkeypatch.setenv("CORL_FILE", str(tmp_path / "like_corl.py"))
    data = contestants.synthetic()
    given, (size, columns, batch_size) = peers.corl(data)()
    assert (size, batch_size, given["max_action"]) == (100_000, 256, 1.0)
    assert set(given) == {
        "max_action",
        *("actor", "actor_optimizer", "critic_1", "critic_1_optimizer"),
        *("critic_2", "critic_2_optimizer"),
    }
    group = given["critic_2_optimizer"].param_groups[0]
    assert group["lr"] == 3e-4 and group["params"][0] is given["critic_2"].weight
    assert columns["actions"] is data.action and columns["rewards"] is data.reward
    assert abs(columns["observations"].std() - 1) < 0.01


def test_synthetic_transitions_are_whole_episodes(module):
    data = module("benchmarks.offline_contestants").synthetic()
    assert (len(data), data.obs_size, data.action.shape[1]) == (100_000, 17, 6)
    assert data.last.sum() == 100 and data.last[-1] and not data.terminated.any()
    assert np.array_equal(data.next_obs[:-1], data.obs[1:])


def test_a_process_answers_with_whole_iterations(offline, plans):
    everyone, name = plans.contestants(plans.Plan((1,), steps=2), []), "1 seed, eager, 1 thread"
    (own,) = offline.measure(offline.TASK, {name: everyone[name]}, 2, 0.001)
    assert own["ready"][0]["compiled"] is False
    for done in own["rounds"]:
        (process,) = done["processes"]
        assert process["steps"] == 2 * process["iterations"] > 0
        assert done["steps_per_second"] == pytest.approx(process["steps"] / process["seconds"])
        assert set(process["profile"]) == {"data", "learning"}
        assert 0.5 * process["seconds"] <= sum(process["profile"].values()) <= process["seconds"]
