"""Evaluation: whole first episodes with hand-computed returns, nothing of the training touched."""

import gymnasium
import numpy as np
import pytest
import torch

from rlsuite.core.networks import ActorCritic
from rlsuite.envs import make
from rlsuite.runs import evaluation
from rlsuite.runs.evaluation import evaluate


class Wages(gymnasium.Env):
    """Pays the action (its number, if discrete) at every step; its seed s is how long it lasts.

    An episode of s + 1 steps, each observed as (s, s), each of cost 1. Episodes after the first
    pay 1000 more a step: only the first may count.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))

    def __init__(self, discrete: bool) -> None:
        box = gymnasium.spaces.Box(-0.5, 1.0, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(3) if discrete else box
        self.episode = -1

    def reset(self, *, seed=None, options=None):
        self.seed = self.seed if seed is None else seed
        self.time, self.episode = 0, self.episode + 1
        return np.full(2, self.seed, np.float32), {}

    def step(self, action):
        self.time += 1
        reward = float(np.sum(action)) + 1000.0 * self.episode
        obs = np.full(2, self.seed, np.float32)
        return obs, reward, self.time == self.seed + 1, False, {"cost": 1.0}


@pytest.fixture(autouse=True)
def registered():
    gymnasium.register("Wages-v0", entry_point=Wages, kwargs={"discrete": False})
    gymnasium.register("Choices-v0", entry_point=Wages, kwargs={"discrete": True})
    yield
    del gymnasium.registry["Wages-v0"], gymnasium.registry["Choices-v0"]


def constant_policy(*outputs: list[float], discrete=False) -> ActorCritic:
    """Slot s gives `outputs[s]` whatever it sees: the mean action, or the logits."""
    rngs = [np.random.default_rng(s) for s in range(len(outputs))]
    policy = ActorCritic(2, len(outputs[0]), discrete, rngs=rngs, hidden=(4,))
    views = policy.layout.views(policy.theta)
    views["actor.1.weight"].zero_()
    views["actor.1.bias"].copy_(torch.tensor(outputs)[:, None])
    return policy


LENGTHS = np.array([[1, 2, 5], [4, 1, 3]])  # of the episodes that seeds one less begin


def test_returns_costs_and_lengths_by_hand():
    # Slot 0 acts 0.25: returns 0.25, 0.5, 1.25. Slot 1 acts -2, clipped to -0.5: -2, -0.5, -1.5.
    # Short episodes are over long before the longest; the environments then go on at 1000 a step.
    policy = constant_policy([0.25], [-2.0])
    result = evaluate(policy, make("Wages-v0", [0, 1], 3), LENGTHS - 1)
    np.testing.assert_allclose(result.returns, [[0.25, 0.5, 1.25], [-2.0, -0.5, -1.5]], rtol=1e-6)
    np.testing.assert_array_equal(result.lengths, LENGTHS)
    np.testing.assert_array_equal(result.costs, LENGTHS[..., None])


def test_discrete_actions_are_the_most_probable_ones():
    # Slot 0 takes action 2, slot 1 action 1: 2 or 1 for each step
    policy = constant_policy([0.0, 1.0, 3.0], [0.0, 0.1, -5.0], discrete=True)
    result = evaluate(policy, make("Choices-v0", [0, 1], 3), LENGTHS - 1)
    np.testing.assert_array_equal(result.returns, LENGTHS * [[2], [1]])


def test_it_can_be_repeated():
    policy, envs = constant_policy([0.25], [0.5]), make("Wages-v0", [0, 1], 3)
    first, second = (evaluate(policy, envs, LENGTHS - 1) for _ in range(2))
    # The environments are created anew: the second evaluation meets first episodes again
    np.testing.assert_array_equal(first.returns, second.returns)


def test_the_policy_acts_on_normalised_observations():
    # Statistics mean 2, variance 4: a seed s is seen as (s - 2)/2. With the weights below the
    # action is tanh(z_1) * 0.5: s = 0 gives z = -1, -0.380797; s = 3 gives z = 0.5, 0.231059.
    policy = constant_policy([0.0])
    views = policy.layout.views(policy.theta)
    views["actor.0.weight"].zero_()
    views["actor.0.weight"][0, 0, 0] = 1.0
    views["actor.1.weight"][0, 0, 0] = 0.5
    policy.normalizer.mean.fill_(2.0)
    policy.normalizer.var.fill_(4.0)
    result = evaluate(policy, make("Wages-v0", [0], 2), np.array([[0, 3]]))
    np.testing.assert_allclose(result.returns, [[-0.380797, 4 * 0.231059]], atol=1e-5)


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_nothing_of_the_policy_changes(mode):
    policy = constant_policy([0.25], [0.5]).train(mode)
    policy.normalizer.train().observe(np.random.default_rng(0).standard_normal((2, 9, 2)))
    policy.train(mode)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    evaluate(policy, make("Wages-v0", [0, 1], 3), LENGTHS - 1)
    assert policy.training is mode
    for name, value in policy.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_slots_are_independent():
    policy, env_seeds = constant_policy([0.1], [0.7]), LENGTHS - 1
    views = policy.layout.views(policy.theta)
    views["actor.1.weight"].copy_(torch.tensor([0.3, -0.2, 0.1, 0.5]).expand(2, 1, 4))
    together = evaluate(policy, make("Wages-v0", [0, 1], 3), env_seeds)
    alone = constant_policy([0.7])
    alone.theta.copy_(policy.theta[1:])
    mine = evaluate(alone, make("Wages-v0", [1], 3), env_seeds[1:])
    np.testing.assert_array_equal(mine.returns[0], together.returns[1])
    assert (together.returns[0] != together.returns[1]).all()


def test_noise_makes_it_stochastic_and_is_drawn_per_seed():
    # Mean 0.25, std 1, box [-0.5, 1]: returns of single steps are spread over the whole box.
    policy, envs = constant_policy([0.25], [0.25]), make("Wages-v0", [0, 1], 40)
    env_seeds = np.zeros((2, 40), int)

    def noisy(*seeds: int):
        return evaluate(policy, envs, env_seeds, [np.random.default_rng(s) for s in seeds]).returns

    returns = noisy(5, 6)
    noise = np.random.default_rng(5).standard_normal((40, 1)).astype(np.float32)
    np.testing.assert_allclose(returns[0], (0.25 + noise[:, 0]).clip(-0.5, 1.0), atol=1e-6)
    assert (returns.min(), returns.max()) == (-0.5, 1.0)
    np.testing.assert_array_equal(noisy(6, 5), returns[::-1])


def test_an_episode_that_never_ends_is_cut(monkeypatch, warned):
    monkeypatch.setattr(evaluation, "ENDLESS", 20)
    policy, envs = constant_policy([0.25]), make("Wages-v0", [0], 3)
    assert evaluate(policy, envs, np.array([[1, 18, 19]])).lengths.tolist() == [[2, 19, 20]]
    # The first pays 0.25 for 2 steps, the others for the 20 that they get.
    assert warned() == []
    result = evaluate(policy, envs, np.array([[1, 30, 40]]))
    assert result.lengths.tolist() == result.costs[..., 0].tolist() == [[2, 20, 20]]
    assert result.returns.tolist() == [[0.5, 5.0, 5.0]]
    evaluate(policy, envs, np.array([[1, 30, 40]]))
    (once,) = warned()
    assert once.startswith("Wages-v0 has no time limit, and some episodes had no end: evaluations")
    assert "after 20 steps" in once
