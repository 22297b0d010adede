"""What every algorithm promises. One joins by being registered and having a `smoke` preset."""

import csv
import dataclasses
import inspect
import json
import os
import random
import shutil
import signal
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from conftest import go_on, needs_a_box, said, start_of

from rlsuite import algorithms
from rlsuite.core.ranges import Declared
from rlsuite.core.saving import load_policy
from rlsuite.evidence import export
from rlsuite.evidence.styles import STYLES
from rlsuite.runs import logs
from rlsuite.runs import run as runs
from rlsuite.runs.settings import field_comments

NAMES = list(algorithms.ALGORITHMS)
EVERY = pytest.mark.parametrize("name", NAMES)
CONTINUOUS, DISCRETE = "InvertedPendulum-v4", "CartPole-v1"
ON_EVERY_KIND = [(name, CONTINUOUS) for name in NAMES]
ON_EVERY_KIND += [(name, DISCRETE) for name in NAMES if not needs_a_box(name)]

# On the second engine: one of each kind that steps environments in a way of its own
ON_EVERY_ENGINE = [(name, "gymnasium") for name in NAMES]
ON_EVERY_ENGINE += [(name, "envpool") for name in ("ppo", "sac", "cat")]


def rows(folder: Path, name: str = "evaluations.csv") -> list[dict]:
    """Rows of a CSV file without the wall time, the one column that no rerun repeats."""
    with open(folder / name, newline="") as file:
        return [
            {k: v for k, v in row.items() if k != "wall_seconds"} for row in csv.DictReader(file)
        ]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    policy, _ = load_policy(folder)
    return policy.state_dict()


def assert_same_run(a: Path, b: Path) -> None:
    """Policies, normalisers, every evaluation episode and every CSV row, bit for bit."""
    folders = sorted(path.name for path in a.glob("policy*"))
    assert folders == sorted(path.name for path in b.glob("policy*"))
    for folder in folders:
        left, right = tensors(a / folder), tensors(b / folder)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)
    assert rows(a) == rows(b)
    assert rows(a, "progress.csv") == rows(b, "progress.csv")
    with np.load(a / "evaluations.npz") as x, np.load(b / "evaluations.npz") as y:
        assert x.files == y.files
        assert all(np.array_equal(x[key], y[key]) for key in x.files)


# ------------------------------------------------------------------------------ configuration


@EVERY
def test_config_survives_a_round_trip_through_json(name: str) -> None:
    module = algorithms.load(name)
    for table in module.PRESETS.values():
        for family, values in table.items():
            config = module.Config(**preset_values(table, family, values))
            text = json.dumps(dataclasses.asdict(config))
            assert runs.from_json(module.Config, json.loads(text)) == config


def preset_values(table: dict, family: str, values: dict) -> dict:
    return values if family == "*" else table.get("*", {}) | values


@EVERY
def test_every_config_field_says_what_it_is_and_where_its_number_comes_from(name: str) -> None:
    config_class = algorithms.load(name).Config
    comments = field_comments(config_class)
    for field in dataclasses.fields(config_class):
        text = comments.get(field.name, "")
        assert "[" in text and text.endswith("]"), f"{field.name}: {text!r} names no [source]"


@EVERY
def test_every_algorithm_declares_what_runs_and_tables_need(name: str, finished_run) -> None:
    module = algorithms.load(name)
    config = module.Config(**module.PRESETS["smoke"]["*"])
    declared, kinds = config.declared, get_type_hints(module.Config)
    assert isinstance(declared, Declared)
    assert declared.widths == config.hidden and declared.rows >= 1
    assert declared.learning_rates, "where training diverges, they are what to lower"
    assert all(kinds[rate] is float for rate in declared.learning_rates)
    folder = finished_run(name, CONTINUOUS)
    about = json.loads((folder / "config.json").read_text())
    assert about["declared"] == json.loads(json.dumps(declared._asdict()))
    log = rows(folder, "progress.csv")
    assert int(log[-1]["step"]) <= declared.steps < int(log[-1]["step"]) + 2048
    assert not declared.value or declared.value in log[-1]
    assert export.finished(folder).finished, "each of its iterations is logged, so it is whole"


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("bc", {"best_fraction": 0.1}, {"variant": "10-percent"}),
        ("spot", {"online_steps": 2000}, {"variant": "online", "steps": 1_002_000}),
        ("cfpi", {"on": "runs/iql"}, {"variant": "on", "steps": 1, "value": ""}),
        ("ppo", {"num_envs": 4}, {"environments": 4, "rows": 4 * 2048 // 32}),
        ("fixpo", {}, {"rows": 64 * 128 // 16, "environments": 64}),
        ("trpo", {}, {"rows": 128, "environments": 2, "learning_rates": ("critic_lr",)}),
    ],
)
def test_what_is_declared_follows_the_settings(name, changes, expected) -> None:
    declared = algorithms.load(name).Config(**changes).declared._asdict()
    assert {key: declared[key] for key in expected} == expected


@EVERY
def test_it_has_a_style_and_a_thin_script(name: str) -> None:
    assert name in STYLES
    script = Path(__file__).parents[1] / "scripts" / f"{name}.py"
    assert f'main(["train", "{name}", *sys.argv[1:]])' in script.read_text()


# --------------------------------------------------------------------------------- objectives


def extreme_arguments(function, scale: float) -> dict:
    """[2, 6] tensors of +-scale for tensor parameters, a typical number for the others."""
    generator = np.random.default_rng(0)
    arguments = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.annotation is torch.Tensor:
            signs = generator.choice([-1.0, 0.0, 1.0], size=(2, 6))
            tensor = torch.tensor(signs * scale, dtype=torch.float32)
            arguments[parameter.name] = tensor.requires_grad_()
        else:
            arguments[parameter.name] = 0.2
    return arguments


@EVERY
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e3, 1e6])
def test_objectives_are_per_seed_and_finite_at_extremes(name: str, scale: float) -> None:
    for function in algorithms.load(name).OBJECTIVES:
        arguments = extreme_arguments(function, scale)
        value = function(**arguments)
        assert value.shape == (2,), function.__name__
        assert value.isfinite().all(), function.__name__
        if value.requires_grad:
            value.sum().backward()
            gradients = [a.grad for a in arguments.values() if isinstance(a, torch.Tensor)]
            assert all(g is None or g.isfinite().all() for g in gradients), function.__name__


@EVERY
def test_objectives_couple_no_seeds(name: str) -> None:
    """Whatever seed 1 holds, seed 0's value and gradient keep their bits."""
    for function in algorithms.load(name).OBJECTIVES:
        values, gradients = [], []
        for other in (1.0, 50.0):
            arguments = extreme_arguments(function, 1.0)
            for tensor in (a for a in arguments.values() if isinstance(a, torch.Tensor)):
                tensor.data[1] *= other
            value = function(**arguments)
            if value.requires_grad:
                value.sum().backward()
            values.append(value[0].item())
            parts = [a.grad for a in arguments.values() if isinstance(a, torch.Tensor)]
            gradients.append([g[0].tolist() for g in parts if g is not None])
        assert values[0] == values[1] and gradients[0] == gradients[1], function.__name__


# ----------------------------------------------------------------------------------- training


@pytest.mark.parametrize(("name", "env"), ON_EVERY_KIND)
def test_a_seed_alone_equals_the_same_seed_in_company(name, env, short_runs) -> None:
    steps = {} if needs_a_box(name) else {"env_steps": 1024}
    alone = short_runs.train("alone", name, env, seeds=(3,), **steps)
    company = short_runs.train("company", name, env, seeds=(0, 1, 2, 3, 4), **steps)
    a, b = tensors(alone), tensors(company)
    for key in a:
        assert torch.equal(a[key][0], b[key][3]), key
    assert rows(alone) == [row for row in rows(company) if row["seed"] == "3"]


@EVERY
def test_different_seeds_differ(name, finished_run) -> None:
    folder = finished_run(name, CONTINUOUS)
    theta = tensors(folder)["theta"]
    assert not torch.equal(theta[0], theta[1])
    one, other = ({**row, "seed": ""} for row in rows(folder, "progress.csv")[-2:])
    assert one != other


@EVERY
def test_what_is_handed_to_the_compiler_is_called_as_without_it(
    name, finished_run, short_runs, monkeypatch, capsys
) -> None:
    plain = finished_run(name, CONTINUOUS)  # too short to be compiled unasked
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    compiled = short_runs.train("compiled", name, CONTINUOUS, compile="on")
    told = capsys.readouterr().err
    assert "compiling" in told and "not compiled" not in told
    assert_same_run(plain, compiled)


@EVERY
def test_training_moves_its_own_parameters_and_no_global_state(name, short_runs) -> None:
    run = short_runs.create("run", name, CONTINUOUS)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    untouched = torch.ones(3, requires_grad=True)
    runs.execute(run)
    assert torch.equal(torch.get_rng_state(), torch_state), "draw from the run's streams instead"
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert untouched.grad is None
    theta = tensors(run.folder)["theta"]
    start = initial_theta(short_runs.create("fresh", name, CONTINUOUS))
    policy, _ = load_policy(run.folder)
    for layer, moved in policy.layout.views((theta != start).float()).items():
        # Not all: on a few hundred rows some ReLU units are never active
        assert moved.mean() > 0.5, f"{layer} is trained"


def initial_theta(run: runs.Run) -> torch.Tensor:
    """The parameters before the first iteration."""
    caught = []
    start_of(run, 0, lambda learner: caught.append(learner.policy.theta.clone()))
    return caught[0]


@EVERY
def test_saved_policy_acts_the_same_in_a_new_process(
    name, finished_run, start_process, tmp_path
) -> None:
    folder = finished_run(name, CONTINUOUS)
    process = start_process(save_action, folder, tmp_path / "theirs.npy")
    process.join()
    assert process.exitcode == 0, said(process)
    save_action(folder, tmp_path / "ours.npy")
    assert (tmp_path / "theirs.npy").read_bytes() == (tmp_path / "ours.npy").read_bytes()


def save_action(folder: Path, path: Path) -> None:
    policy, _ = load_policy(folder)
    obs = np.random.default_rng(7).standard_normal((2, 5, policy.spec["obs_size"]))
    action, _ = policy.behaviour().act(obs)
    np.save(path, action.astype(np.float32))


# ------------------------------------------------------------------------------------- resume


def go_on_until(folder: Path, lines: int) -> None:
    """Resume the run in `folder`; SIGKILL itself once progress.csv has so many lines."""
    append = logs.append

    def killing(where: Path, name: str, new: list[dict]) -> None:
        append(where, name, new)
        if name == "progress.csv" and (where / name).read_text().count("\n") >= lines:
            os.kill(os.getpid(), signal.SIGKILL)

    logs.append = killing
    go_on(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "engine"), ON_EVERY_ENGINE)
def test_killed_three_times_and_resumed_equals_uninterrupted(
    name, engine, short_runs, start_process
) -> None:
    env = CONTINUOUS if engine == "gymnasium" or needs_a_box(name) else DISCRETE
    if algorithms.is_offline(name):
        length = {"gradient_steps": 800}
    else:
        length = {"env_steps": 768 if needs_a_box(name) else 4096}
    settings = {"engine": engine, "checkpoints": 4, **length}
    whole = short_runs.train("whole", name, env, **settings)
    broken = short_runs.create("broken", name, env, **settings).folder
    total = (whole / "progress.csv").read_text().count("\n")
    generator = random.Random(len(engine))
    # The three moments lie in the second, third and fourth quarter, so that each is new ground
    for quarter in (1, 2, 3):
        moment = int(total * (quarter + generator.random() * 0.8) / 4)
        killed = start_process(go_on_until, broken, moment)
        killed.join()
        assert killed.exitcode == -signal.SIGKILL, said(killed)
    last = start_process(go_on, broken)
    last.join()
    assert last.exitcode == 0, said(last)
    assert_same_run(whole, broken)


@EVERY
def test_checkpoint_cut_short_is_refused_and_the_one_before_is_used(
    name, finished_run, tmp_path, capsys
) -> None:
    whole = finished_run(name, CONTINUOUS)
    damaged = shutil.copytree(whole, tmp_path / "damaged")
    (damaged / "finished").unlink()
    newest = sorted((damaged / "checkpoint").glob("*.ckpt"))[-1]
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    runs.execute(runs.reopen(damaged))
    told = capsys.readouterr().err
    assert "cut short" in told and newest.name in told.replace("\n", "")
    assert_same_run(whole, damaged)
