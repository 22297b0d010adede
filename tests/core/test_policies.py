"""Acting: snapshots are true copies, and raw and applied actions are what the contract says."""

import numpy as np
import pytest
import torch

from rlsuite.core.actors import BoundedActor
from rlsuite.core.beta import BetaActorCritic
from rlsuite.core.gaussian import GaussianActor
from rlsuite.core.networks import ActorCritic
from rlsuite.core.policies import Behaviour, normal
from rlsuite.core.squashed import SquashedActor

LOW, HIGH = np.float32([-0.5, -0.1]), np.float32([0.3, 0.2])
BOUNDS = ([-0.5, -0.1], [0.3, 0.2])
ENV_OBS = 5 + np.random.default_rng(0).standard_normal((2, 4, 3))


def rngs_of(*seeds: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


POLICIES = {
    "Gaussian": lambda: ActorCritic(3, 2, False, rngs=rngs_of(0, 1), hidden=(8,)),
    "unnormalised": lambda: ActorCritic(
        3, 2, False, rngs=rngs_of(0, 1), hidden=(8,), normalize_obs=False
    ),
    "categorical": lambda: ActorCritic(3, 2, True, rngs=rngs_of(0, 1), hidden=(8,)),
    "beta": lambda: BetaActorCritic(3, 2, False, rngs=rngs_of(0, 1), hidden=(8,)),
    "bounded": lambda: BoundedActor(3, *BOUNDS, rngs=rngs_of(0, 1), hidden=(8,)),
    "bounded Gaussian": lambda: BoundedActor(
        3, *BOUNDS, rngs=rngs_of(0, 1), hidden=(8,), log_std=0.0
    ),
    "unbounded Gaussian": lambda: GaussianActor(
        3, *BOUNDS, rngs=rngs_of(0, 1), hidden=(8,), log_std=0.0
    ),
    "tanh-Gaussian": lambda: SquashedActor(3, *BOUNDS, rngs=rngs_of(0, 1), hidden=(8,)),
}
EVERY = pytest.mark.parametrize("kind", POLICIES)


def policy_of(kind: str):
    """Two seeds away from their initial values, where actions hardly depend on observations."""
    policy = POLICIES[kind]()
    policy.theta += 0.5 * torch.from_numpy(rngs_of(2)[0].standard_normal(policy.theta.shape))
    policy.normalizer.mean += 5
    return policy


def actions(behaviour: Behaviour) -> list[np.ndarray]:
    """(raw, applied), without and with samples."""
    return [*behaviour.act(ENV_OBS), *behaviour.act(ENV_OBS, rngs_of(7, 8))]


def move(policy) -> None:
    """All that training changes, in place: every weight and bias, log_std and the statistics."""
    layers = policy.layout.views(policy.theta)
    for seed, view in enumerate(layers.values()):
        view += torch.from_numpy(rngs_of(seed)[0].standard_normal(view.shape))
    policy.normalizer.mean += 1
    for spread in ("var", "std"):
        if hasattr(policy.normalizer, spread):
            getattr(policy.normalizer, spread).mul_(4)


@EVERY
def test_training_does_not_change_what_a_snapshot_does(kind):
    policy = policy_of(kind)
    behaviour = policy.behaviour(LOW, HIGH)
    before = actions(behaviour)
    move(policy)
    for then, now in zip(before, actions(behaviour), strict=True):
        np.testing.assert_array_equal(then, now)
    assert any((a != b).any() for a, b in zip(before, actions(policy.behaviour()), strict=True))


@EVERY
def test_each_parameter_of_the_actor_is_copied(kind):
    policy = policy_of(kind)
    behaviour = policy.behaviour()
    before = actions(behaviour)
    for view in policy.layout.views(policy.theta).values():
        view += 1
        for then, now in zip(before, actions(behaviour), strict=True):
            np.testing.assert_array_equal(then, now)


@EVERY
def test_a_refreshed_snapshot_is_as_good_as_a_new_one(kind):
    policy = policy_of(kind)
    behaviour = policy.behaviour(LOW, HIGH)
    move(policy)
    behaviour.refresh(policy)
    fresh = policy.behaviour(LOW, HIGH)
    for mine, theirs in zip(actions(behaviour), actions(fresh), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    # A snapshot again: it stands still until the next time
    before = actions(behaviour)
    move(policy)
    for then, now in zip(before, actions(behaviour), strict=True):
        np.testing.assert_array_equal(then, now)


@EVERY
def test_the_environment_gets_actions_within_its_bounds(kind):
    policy = policy_of(kind)
    for raw, applied in zip(*[iter(actions(policy.behaviour(LOW, HIGH)))] * 2, strict=True):
        if kind == "categorical":
            assert (raw.dtype, raw.shape) == (np.int64, (2, 4))
            np.testing.assert_array_equal(raw, applied)
            continue
        assert (raw.dtype, raw.shape) == (np.float32, (2, 4, 2))
        raw = in_the_box(policy, raw)
        expected = LOW + (HIGH - LOW) * raw if kind == "beta" else np.clip(raw, LOW, HIGH)
        np.testing.assert_allclose(applied, expected, rtol=1e-6, atol=1e-7)
        assert (applied >= LOW).all() and (applied <= HIGH).all()
    # Where no bounds are given there is nothing to keep to
    raw, applied = policy.behaviour().act(ENV_OBS, rngs_of(7, 8))
    np.testing.assert_allclose(in_the_box(policy, raw), applied, rtol=1e-6, atol=1e-7)


def in_the_box(policy, raw: np.ndarray) -> np.ndarray:
    """Raw actions in the environment's units: some policies' are in half widths of the box."""
    if not isinstance(policy, GaussianActor | SquashedActor):
        return raw
    return policy.centre.numpy() + policy.half_width.numpy() * raw


@EVERY
def test_samples_come_of_each_seeds_own_generator(kind):
    policy = policy_of(kind)
    behaviour, rngs = policy.behaviour(), rngs_of(7, 8)
    one, two = (behaviour.act(ENV_OBS, rngs)[0] for _ in range(2))
    alike = behaviour.act(ENV_OBS, rngs_of(7, 9))[0]
    np.testing.assert_array_equal(alike[0], one[0])
    if kind != "bounded":  # which is deterministic
        assert (one != two).any()
    mode = behaviour.act(ENV_OBS)[0]
    np.testing.assert_array_equal(mode, behaviour.act(ENV_OBS)[0])


@pytest.mark.parametrize("kind", ["Gaussian", "categorical", "bounded Gaussian"])
def test_noise_of_many_steps_at_once_is_that_of_one_step_after_another(kind):
    behaviour = policy_of(kind).behaviour()
    rngs, whole = rngs_of(7, 8), behaviour.noise(rngs_of(7, 8), 6, 4)
    assert (whole.shape, whole.dtype) == ((2, 6, 4, 2), np.float32)
    for step in range(6):
        np.testing.assert_array_equal(behaviour.noise(rngs, 4), whole[:, step])


def test_noise_is_normal_or_gumbel():
    # Standard normal: mean 0, variance 1. Gumbel: mean 0.5772 (Euler), variance pi^2/6 = 1.6449.
    for kind, mean, variance in (("Gaussian", 0.0, 1.0), ("categorical", 0.5772, 1.6449)):
        noise = policy_of(kind).behaviour().noise(rngs_of(10), 400, 100)
        assert (noise.dtype, noise.shape) == (np.float32, (1, 400, 100, 2))
        assert noise.mean() == pytest.approx(mean, abs=0.02)
        assert noise.var() == pytest.approx(variance, rel=0.02)


def test_normal_numbers_of_a_seed_are_its_own_generators():
    drawn = normal(rngs_of(3, 4), 5, 2)
    assert drawn.dtype == np.float32
    for row, rng in zip(drawn, rngs_of(3, 4), strict=True):
        np.testing.assert_array_equal(row, rng.standard_normal((5, 2)).astype(np.float32))


def test_settings_of_a_network_are_given_by_name():
    # By position, an activation and a switch were swapped in silence
    with pytest.raises(TypeError, match="positional"):
        ActorCritic(3, 2, False, rngs_of(0), (8,), True, "tanh")
    with pytest.raises(TypeError, match="positional"):
        BoundedActor(3, *BOUNDS, rngs_of(0), (8,))
