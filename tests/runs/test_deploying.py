"""Policies as files for programs without rlsuite: what they say is what the policy does."""

import sys

import numpy as np
import pytest
import torch

import rlsuite
from rlsuite.cli.main import main
from rlsuite.core.actors import BoundedActor
from rlsuite.core.beta import BetaActorCritic
from rlsuite.core.closed_form import ClosedFormPolicy
from rlsuite.core.deployed import Deployed, observations, require_same
from rlsuite.core.gaussian import GaussianActor
from rlsuite.core.networks import ActorCritic
from rlsuite.core.saving import save_policy
from rlsuite.core.spaces import Spaces
from rlsuite.core.squashed import SquashedActor

LOW, HIGH = np.array([-1.0, -2.0]), np.array([1.0, 5.0])
BOX = Spaces.box((((), (3,)),), (2, 1), LOW, HIGH, np.float32)
SEVERAL = Spaces.counted((((), (3,)),), (2,), (2, 3), (0, 4), np.int64)
ONE = Spaces.counted((((), (3,)),), (), 4, 1, np.int64)


def rngs() -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in (0, 1)]


def bounded(kind, **more):
    return kind(3, LOW, HIGH, rngs=rngs(), hidden=(8, 8), **more)


def critic(kind=ActorCritic, actions: int = 2, discrete: bool = False, **more):
    return kind(3, actions, discrete, rngs=rngs(), hidden=(8, 8), **more)


POLICIES = {
    "gaussian": (lambda: critic(), BOX),
    "elu": (lambda: critic(activation="elu"), BOX),
    "not normalised": (lambda: critic(activation="relu", normalize_obs=False), BOX),
    "beta": (lambda: critic(BetaActorCritic), BOX),
    "categorical": (lambda: critic(actions=4, discrete=True), ONE),
    "several choices": (lambda: critic(actions=6, discrete=True), SEVERAL),
    "bounded": (lambda: bounded(BoundedActor, log_std=0.0), BOX),
    "deterministic": (lambda: bounded(BoundedActor), BOX),
    "unbounded mean": (lambda: bounded(GaussianActor), BOX),
    "squashed": (lambda: bounded(SquashedActor), BOX),
}


def saved(folder, policy, spaces):
    """Two seeds with large weights, so that actions reach their bounds and squashing counts."""
    noise = np.random.default_rng(5)
    policy.theta += torch.from_numpy(noise.standard_normal(policy.theta.shape)).float()
    if hasattr(policy.normalizer, "observe"):
        policy.normalizer.observe(5 + 2 * noise.standard_normal((2, 50, 3)))
    else:
        policy.normalizer.fit(np.array([5.0, 0, -5]), np.array([1.0, 2, 3]))
    about = {"task": "none", "seeds": [0, 1], "spaces": spaces.to_json()}
    save_policy(policy, folder / "policy", about)
    return rlsuite.load_policy(folder, seed=1)


@pytest.mark.parametrize("name", POLICIES)
def test_tensors_act_as_the_policy_does(name, tmp_path) -> None:
    make, spaces = POLICIES[name]
    policy = saved(tmp_path, make(), spaces)
    deployed, obs = Deployed(policy), observations(policy, 1000)
    found = deployed(torch.from_numpy(obs)).numpy()
    assert require_same(policy, deployed, obs, found, 1e-5) <= 1e-4
    assert len(np.unique(found.round(3), axis=0)) > 1  # not one action for everything
    wrong = np.flip(found, 0).copy()
    with pytest.raises(RuntimeError, match="differ from the policy's by"):
        require_same(policy, deployed, obs, wrong, 1e-5)


@pytest.mark.slow
def test_a_program_of_torch_export_is_checked_and_written_whole(tmp_path, capsys) -> None:
    make, spaces = POLICIES["several choices"]
    saved(tmp_path, make(), spaces)
    out = tmp_path / "acting.pt2"
    assert main(["policy", str(tmp_path), "--to", "torch", "--out", str(out), "--seed", "1"]) == 0
    said = capsys.readouterr().out
    assert "obs [N, 3] float64 -> action [N, 2] int64" in said and "1,000 observations" in said
    policy = rlsuite.load_policy(tmp_path, seed=1)
    obs = observations(policy, 5)
    found = torch.export.load(out).module()(torch.from_numpy(obs)).numpy()
    np.testing.assert_array_equal(found, policy.act(obs))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["acting.pt2", "policy"]


@pytest.mark.parametrize("name", ["gaussian", "beta", "several choices", "squashed"])
def test_onnx_acts_as_the_policy_does(name, tmp_path, capsys) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    make, spaces = POLICIES[name]
    policy = saved(tmp_path, make(), spaces)
    assert main(["policy", str(tmp_path), "--to", "onnx", "--seed", "1"]) == 0
    assert "its actions are the policy's to" in capsys.readouterr().out
    session = runtime.InferenceSession(tmp_path / "policy.onnx")
    for count in (1, 7):
        obs = observations(policy, count)
        np.testing.assert_allclose(session.run(None, {"obs": obs})[0], policy.act(obs), atol=1e-5)


def test_what_cannot_be_exported_is_one_line(tmp_path, capsys, monkeypatch) -> None:
    """An unknown format, a missing package, and a policy that is more than a function."""
    saved(tmp_path, critic(), BOX)
    shape = {"hidden": (8,), "base": "mixture", "components": 2, "critic_hidden": (8, 8)}
    shape |= {"distributional": False, "operator": "better"}
    saved(tmp_path / "cfpi", ClosedFormPolicy(3, LOW, HIGH, rngs=rngs(), **shape), BOX)
    monkeypatch.setitem(sys.modules, "onnx", None)
    for words, code, message in (
        ([str(tmp_path), "--to", "tflite"], 2, "--to is 'tflite'; use one of: onnx, torch"),
        ([str(tmp_path)], 2, "--to is missing; type: rlsuite policy FOLDER --to TEXT"),
        ([str(tmp_path), "--to", "onnx"], 1, "pip install onnx onnxruntime onnxscript"),
        ([str(tmp_path / "cfpi"), "--to", "onnx"], 2, "takes the gradient of its critics"),
        ([str(tmp_path), "--to", "torch", "--seed", "9"], 2, "seed 9 is not in"),
    ):
        assert main(["policy", *words]) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not list(tmp_path.glob("*.pt2")) + list(tmp_path.glob("*.onnx"))
