"""Policies in a box: standardised observations in, actions of the environment's units out."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from rlsuite.core.actors import BoundedActor, Standardizer, dense, initial
from rlsuite.core.layers import Layout, mlp_shapes
from rlsuite.core.optim import gradient
from rlsuite.core.saving import load_policy, save_policy, select_seed
from rlsuite.runs.machine import choose_products

BOXES = {
    "unit": ([-1.0, -1.0], [1.0, 1.0]),
    "Pendulum's": ([-2.0], [2.0]),
    "asymmetric": ([-3.0, 0.0, -1.0], [1.0, 0.5, 4.0]),
}
EVERY_BOX = pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
KINDS = pytest.mark.parametrize("log_std", [None, -1.0], ids=["deterministic", "Gaussian"])


def rngs_of(*seeds: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


def actor_of(box=BOXES["asymmetric"], log_std=None, seeds=(0, 1), **options) -> BoundedActor:
    """Two seeds of a net for 3 observations whose statistics and parameters are not the initial."""
    options = {"hidden": (16, 8), **options}
    policy = BoundedActor(3, *box, rngs=rngs_of(*seeds), log_std=log_std, **options)
    policy.theta += 0.3 * torch.from_numpy(rngs_of(9)[0].standard_normal(policy.theta.shape))
    policy.normalizer.fit(np.array([5.0, -3.0, 0.1]), np.array([2.0, 0.5, 1e-4]))
    return policy


def observations(seeds=2, count=50) -> np.ndarray:
    scale = np.array([2.0, 0.5, 1e-3])
    return np.array([5.0, -3.0, 0.1]) + scale * rngs_of(3)[0].standard_normal((seeds, count, 3))


# ---------------------------------------------------------------------------------- Standardizer


def test_7_3_standardised_data_have_mean_0_and_std_1_minus_the_eps_effect():
    rng = np.random.default_rng(0)
    obs = np.array([100.0, -3, 0]) + np.array([20, 0.01, 0]) * rng.standard_normal((5000, 3))
    obs = obs.astype(np.float32)
    mean, std = obs.mean(0, dtype=np.float64), obs.std(0, dtype=np.float64)
    normalizer = Standardizer(2, 3)
    normalizer.fit(mean, std)
    seen = normalizer.normalize(np.stack([obs, obs]))
    assert seen.dtype == np.float32
    for seed in (0, 1):
        np.testing.assert_allclose(seen[seed].mean(0, dtype=np.float64), 0, atol=2e-4)
        # std/(std + 1e-3): 0.99995, 0.909 and, where nothing varies, 0
        np.testing.assert_allclose(seen[seed].std(0), std / (std + 1e-3), rtol=1e-3)
    assert seen[..., 0].std() > 0.999
    assert abs(seen[..., 1].std() - 0.909) < 0.01
    assert not seen[..., 2].any()


def test_standardizer_by_hand():
    # (7 - 5)/(2 - 1e-3 + 1e-3) = 1, (0 - 5)/2 = -2.5; unfitted, it changes nothing
    normalizer = Standardizer(1, 1)
    obs = np.array([[[7.0], [0.0]]])
    np.testing.assert_array_equal(normalizer.normalize(obs), obs)
    normalizer.fit(np.array([5.0]), np.array([2 - 1e-3]))
    np.testing.assert_allclose(normalizer.normalize(obs), [[[1.0], [-2.5]]])


def test_numpy_and_torch_see_the_same_numbers():
    normalizer, obs = actor_of().normalizer, observations().astype(np.float32)
    theirs = normalizer.standardize(torch.from_numpy(obs))
    assert theirs.dtype == torch.float32
    np.testing.assert_array_equal(normalizer.normalize(obs), theirs.numpy())
    # Observations of an environment are float64: the same up to the rounding of the observation
    exact = normalizer.normalize(observations())
    np.testing.assert_allclose(exact, theirs.numpy(), rtol=0, atol=1e-4)


# ---------------------------------------------------------------------------------- BoundedActor


@EVERY_BOX
def test_the_mean_is_in_the_box_and_reaches_its_ends(box):
    policy = actor_of(box)
    low, high = (torch.tensor(x) for x in box)
    obs = torch.from_numpy(policy.normalizer.normalize(observations(count=500)))
    for scale in (1, 100):
        action = policy.mean(scale * policy.theta, obs)
        assert action.shape == (2, 500, len(box[0]))
        assert ((action >= low) & (action <= high)).all()
    torch.testing.assert_close(action.amin((0, 1)), low)
    torch.testing.assert_close(action.amax((0, 1)), high)
    # A net of zeros is at the centre
    middle = policy.mean(torch.zeros_like(policy.theta), obs)
    torch.testing.assert_close(middle, ((low + high) / 2).expand_as(middle))


@EVERY_BOX
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_mean_is_that_of_torchs_modules(box, activation):
    policy = actor_of(box, activation=activation)
    obs = torch.from_numpy(policy.normalizer.normalize(observations()))
    views, act = policy.layout.views(policy.theta), {"relu": nn.ReLU, "tanh": nn.Tanh}[activation]
    for seed in (0, 1):
        layers = [nn.Linear(*sizes) for sizes in ((3, 16), (16, 8), (8, len(box[0])))]
        for i, layer in enumerate(layers):
            layer.weight.data.copy_(views[f"actor.{i}.weight"][seed])
            layer.bias.data.copy_(views[f"actor.{i}.bias"][seed, 0])
        net = nn.Sequential(layers[0], act(), layers[1], act(), layers[2], nn.Tanh())
        low, high = (torch.tensor(x) for x in box)
        expected = low + (high - low) * (net(obs[seed]) + 1) / 2
        ours = policy.mean(policy.theta, obs)[seed]
        torch.testing.assert_close(ours, expected.detach(), rtol=0, atol=5e-6)


@EVERY_BOX
@KINDS
def test_the_actor_does_what_mean_does_in_numpys_arrays(box, log_std):
    policy = actor_of(box, log_std)
    obs = policy.normalizer.normalize(observations())
    behaviour = policy.behaviour()
    mode, _ = behaviour.act_normalized(obs)
    assert mode.dtype == np.float32
    mean = policy.mean(policy.theta, torch.from_numpy(obs)).numpy()
    np.testing.assert_allclose(mode, mean, rtol=0, atol=5e-6)
    noise = behaviour.noise(rngs_of(4, 5), 50)
    assert (noise.dtype, noise.shape) == (np.float32, mode.shape)
    std = 0.0
    if log_std is not None:
        std = policy.layout.views(policy.theta)["log_std"].exp().numpy()
        assert std.shape == (2, 1, len(box[0]))
    sampled, _ = behaviour.act_normalized(obs, noise)
    np.testing.assert_allclose(sampled, mode + std * noise, rtol=0, atol=1e-6)


@pytest.mark.parametrize("width", [32, 128, 256])
def test_a_seed_acts_the_same_alone_and_in_company(width):
    before, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    try:
        choose_products(SimpleNamespace(widths=(width, width), rows=256))
        torch.set_num_threads(1)
        company, alone = (
            actor_of(seeds=seeds, hidden=(width, width)) for seeds in (range(5), (3,))
        )
        alone.theta.copy_(company.theta[3:4])
        for rows in (1, 2, 10):
            obs = observations(5, rows)
            mine, theirs = alone.behaviour().act(obs[3:4])[0], company.behaviour().act(obs)[0]
            np.testing.assert_array_equal(mine[0], theirs[3])
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(before)


def test_dropout_multiplies_hidden_layers_before_or_after_their_relu_alike():
    policy = actor_of(hidden=(16, 8))
    obs = torch.from_numpy(policy.normalizer.normalize(observations()))
    rng = rngs_of(6)[0]
    masks = [torch.from_numpy((rng.random((2, 50, n)) < 0.9) / 0.9).float() for n in (16, 8)]
    views, x = policy.layout.views(policy.theta), obs
    for i in range(3):
        x = torch.einsum("sbi,soi->sbo", x, views[f"actor.{i}.weight"])
        x = x + views[f"actor.{i}.bias"]
        x = torch.relu(masks[i] * x) if i < 2 else x  # Linear, Dropout, ReLU: SPOT's order
    expected = policy.centre + policy.half_width * torch.tanh(x)
    ours = policy.mean(policy.theta, obs, masks)
    torch.testing.assert_close(ours, expected, rtol=0, atol=5e-6)
    assert (ours - policy.mean(policy.theta, obs)).abs().max() > 1e-2
    ones = [torch.ones_like(mask) for mask in masks]
    assert torch.equal(policy.mean(policy.theta, obs, ones), policy.mean(policy.theta, obs))


def test_seeds_do_not_meet():
    policy = actor_of()
    obs = torch.from_numpy(policy.normalizer.normalize(observations()))
    grad, _ = gradient(lambda theta: (policy.mean(theta, obs)[:1].sum((1, 2)), {}), policy.theta)
    assert grad[0].abs().max() > 0
    assert not grad[1].any()


# --------------------------------------------------------------------------------- initial values


def test_weights_start_as_torchs_linear_does():
    theta = BoundedActor(3, [-1.0], [1.0], rngs=rngs_of(*range(20)), hidden=(100, 50)).theta
    views = Layout(mlp_shapes("actor", (3, 100, 50, 1))).views(theta)
    for name, fan_in in (("0", 3), ("1", 100), ("2", 50)):
        for kind in ("weight", "bias"):  # uniform within 1/sqrt(fan in)
            values = views[f"actor.{name}.{kind}"] * fan_in**0.5
            assert values.abs().max() <= 1 + 1e-6
            assert values.abs().max() > 0.75
            assert abs(values.std() - 3**-0.5) < 0.1


def test_the_last_layer_starts_in_a_range_of_its_own_where_given():
    plain = BoundedActor(3, [-1.0], [1.0], rngs=rngs_of(0), hidden=(16, 8))
    small = BoundedActor(3, [-1.0], [1.0], rngs=rngs_of(0), hidden=(16, 8), last=1e-3)
    ours, theirs = (x.layout.views(x.theta) for x in (small, plain))
    for name, view in ours.items():
        if name.startswith("actor.2"):
            assert 0 < view.abs().max() <= 1e-3 * (1 + 1e-6)
            torch.testing.assert_close(view, theirs[name] * 1e-3 * 8**0.5)
        else:
            assert torch.equal(view, theirs[name])


def test_a_seed_starts_the_same_alone_and_in_company():
    box = BOXES["asymmetric"]
    company = BoundedActor(3, *box, rngs=rngs_of(4, 5, 6), hidden=(16, 8), log_std=-0.5)
    alone = BoundedActor(3, *box, rngs=rngs_of(5), hidden=(16, 8), log_std=-0.5)
    assert torch.equal(company.theta[1], alone.theta[0])
    assert not torch.equal(company.theta[1], company.theta[2])
    log_std = company.layout.views(company.theta)["log_std"]
    assert log_std.shape == (3, 1, 3)
    assert log_std.unique().tolist() == [-0.5]


def test_dense_views_are_contiguous_copies_of_the_same_numbers():
    layout = Layout(mlp_shapes("actor", (3, 16, 2)))
    theta = initial(layout, rngs_of(0, 1))
    for name, view in dense(layout, theta).items():
        assert view.is_contiguous()
        assert torch.equal(view, layout.views(theta)[name])


# ----------------------------------------------------------------------------------------- saving

# Loads a policy, acts on fixed raw observations, prints the bytes of its actions
CHILD = """
import sys, numpy as np
from rlsuite.core.saving import load_policy
policy, _ = load_policy(sys.argv[1])
obs = np.load(sys.argv[2])
print(policy.behaviour().act(obs)[0].tobytes().hex())
"""


def test_a_saved_policy_is_whole_in_another_process(tmp_path):
    policy, obs = actor_of(log_std=-1.0), observations()
    np.save(tmp_path / "obs.npy", obs)
    save_policy(policy, tmp_path / "policy", {"step": 7})
    expected = policy.behaviour().act(obs)[0].tobytes().hex()
    command = [sys.executable, "-c", CHILD, str(tmp_path / "policy"), str(tmp_path / "obs.npy")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert printed == expected


@EVERY_BOX
@KINDS
def test_saving_keeps_box_statistics_and_parameters(tmp_path, box, log_std):
    policy = actor_of(box, log_std)
    save_policy(policy, tmp_path, {})
    loaded, about = load_policy(tmp_path)
    assert about["kind"] == "bounded-actor"
    assert isinstance(loaded, BoundedActor)
    assert loaded.spec == policy.spec
    assert loaded.stochastic == (log_std is not None)
    for name, value in policy.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert torch.equal(loaded.centre, policy.centre)
    assert torch.equal(loaded.half_width, policy.half_width)


def test_one_seed_of_a_policy_alone():
    policy, obs = actor_of(), observations()
    policy.normalizer.mean[1] += 1  # seeds may differ here, too
    alone = select_seed(policy, 1)
    (mine, _), (theirs, _) = alone.behaviour().act(obs[1:]), policy.behaviour().act(obs)
    np.testing.assert_array_equal(mine[0], theirs[1])


def test_an_unbounded_box_is_refused_before_any_training():
    with pytest.raises(ValueError, match=r"action 1 lies in \[0, inf\].* a bounded action space"):
        BoundedActor(3, [-1.0, 0.0], [1.0, np.inf], rngs=rngs_of(0))
