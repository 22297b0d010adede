"""A saved policy is whole: it acts the same in another process, and damage is named."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rlsuite.core import saving
from rlsuite.core.networks import ActorCritic
from rlsuite.core.saving import load_policy, save_policy, select_seed

# Loads a policy, acts on fixed raw observations, prints the bytes of its actions
CHILD = """
import sys
import numpy as np
from rlsuite.core.saving import load_policy
policy, _ = load_policy(sys.argv[1])
obs = 5 + np.random.default_rng(0).standard_normal((2, 4, 3))
rngs = [np.random.default_rng(seed) for seed in (1, 2)]
print(policy.behaviour().act(obs, rngs)[0].tobytes().hex())
"""


def trained_policy(discrete=False, **options) -> ActorCritic:
    """Two seeds whose every number differs from what a fresh policy has."""
    rngs = [np.random.default_rng(seed) for seed in (0, 1)]
    policy = ActorCritic(3, 2, discrete, rngs=rngs, hidden=(16, 8), **options)
    policy.theta += torch.from_numpy(rngs[0].standard_normal(policy.theta.shape)).float()
    policy.normalizer.observe(5 + 2 * rngs[1].standard_normal((2, 50, 3)))
    return policy


def actions(policy: ActorCritic) -> np.ndarray:
    obs = 5 + np.random.default_rng(0).standard_normal((len(policy.theta), 4, 3))
    rngs = [np.random.default_rng(seed) for seed in (1, 2)]
    return policy.behaviour().act(obs, rngs[: len(policy.theta)])[0]


@pytest.mark.parametrize("discrete", [False, True])
def test_a_new_process_acts_the_same(tmp_path, discrete):
    policy = trained_policy(discrete, activation="relu")
    save_policy(policy, tmp_path / "policy", {})
    printed = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "policy")],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    assert printed == actions(policy).tobytes().hex()


def test_everything_comes_back_in_eval_mode(tmp_path):
    policy = trained_policy(normalize_obs=False)
    save_policy(policy, tmp_path / "policy", {"task": "Hopper-v4", "seeds": [0, 1]})
    loaded, about = load_policy(tmp_path / "policy")
    assert (about["task"], about["seeds"], about["kind"]) == ("Hopper-v4", [0, 1], "actor-critic")
    assert loaded.spec == policy.spec
    assert loaded.normalizer.enabled is False
    assert not loaded.training
    assert not loaded.normalizer.training
    saved = policy.state_dict()
    assert saved.keys() == loaded.state_dict().keys()
    for name, value in loaded.state_dict().items():
        assert value.dtype == saved[name].dtype
        assert torch.equal(value, saved[name])


def test_tensors_carry_the_names_of_their_layers(tmp_path):
    # 3 observations, hidden 16 and 8, 2 actions, seed axis in front
    save_policy(trained_policy(), tmp_path / "policy", {})
    tensors = load_file(tmp_path / "policy" / "policy.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes["actor.0.weight"] == (2, 16, 3)
    assert shapes["actor.2.bias"] == (2, 1, 2)
    assert shapes["critic.2.weight"] == (2, 1, 8)
    assert shapes["log_std"] == (2, 1, 2)
    assert shapes["normalizer.mean"] == (2, 3)
    assert tensors["normalizer.var"].dtype == torch.float64


def test_a_run_folder_is_as_good_as_its_policy_folder(tmp_path):
    policy = trained_policy()
    save_policy(policy, tmp_path / "run" / "policy", {})
    np.testing.assert_array_equal(actions(load_policy(tmp_path / "run")[0]), actions(policy))


def test_saving_again_replaces_the_policy_and_leaves_nothing_else(tmp_path):
    policy = trained_policy()
    save_policy(policy, tmp_path / "policy", {"step": 1})
    policy.theta += 1
    save_policy(policy, tmp_path / "policy", {"step": 2})
    loaded, about = load_policy(tmp_path / "policy")
    assert about["step"] == 2
    assert torch.equal(loaded.theta, policy.theta)
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_a_failed_save_leaves_the_policy_before_it(tmp_path, monkeypatch):
    policy = trained_policy()
    save_policy(policy, tmp_path / "policy", {"step": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(saving, "save_file", full)
        with pytest.raises(OSError, match="No space left"):
            save_policy(policy, tmp_path / "policy", {"step": 2})
    assert load_policy(tmp_path / "policy")[1]["step"] == 1
    # ... and what the failure left behind is no obstacle
    save_policy(policy, tmp_path / "policy", {"step": 3})
    assert load_policy(tmp_path / "policy")[1]["step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def change_description(folder, **changes) -> None:
    path = folder / "policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder, **changes) -> None:
    """`None` removes a tensor."""
    path = folder / "policy.safetensors"
    tensors = {k: v for k, v in (load_file(path) | changes).items() if v is not None}
    save_file(tensors, path)


def cut(folder, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])


DAMAGE = {
    "no tensors": lambda f: (f / "policy.safetensors").unlink(),
    "tensors cut short": lambda f: cut(f, "policy.safetensors"),
    "description cut short": lambda f: cut(f, "policy.json"),
    "description of another shape": lambda f: (f / "policy.json").write_text("[]"),
    "unknown kind": lambda f: change_description(f, kind="mixture"),
    "no spec": lambda f: change_description(f, spec={}),
    "a layer missing": lambda f: change_tensors(f, **{"actor.1.weight": None}),
    "no normaliser": lambda f: change_tensors(f, **{"normalizer.mean": None}),
    "a layer of another width": lambda f: change_tensors(
        f, **{"actor.1.bias": torch.ones(2, 1, 1)}
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_policy_is_refused_by_name(tmp_path, damage):
    save_policy(trained_policy(), tmp_path / "policy", {})
    damage(tmp_path / "policy")
    with pytest.raises(ValueError, match=str(tmp_path / "policy")):
        load_policy(tmp_path / "policy")


def test_no_policy_at_all_is_refused_with_what_to_name(tmp_path):
    with pytest.raises(ValueError, match=r"holds no readable policy .* name a run folder"):
        load_policy(tmp_path / "nothing")


def test_one_seed_of_a_policy_alone(tmp_path):
    policy = trained_policy()
    alone = select_seed(policy, 1)
    assert not alone.training
    assert torch.equal(alone.theta, policy.theta[1:])
    obs = 5 + np.random.default_rng(2).standard_normal((2, 4, 3))
    (mine, _), (theirs, _) = alone.behaviour().act(obs[1:]), policy.behaviour().act(obs)
    np.testing.assert_array_equal(mine[0], theirs[1])
    # A copy: the original can train on
    policy.theta += 1
    assert not torch.equal(alone.theta, policy.theta[1:])
