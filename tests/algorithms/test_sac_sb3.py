"""SAC's steps against Stable-Baselines3's losses, written here from its sac.py, in float64.

Its order within a step is temperature, critics, actor, targets. The temperature's loss comes from
an action that was drawn before the critics moved, and critics and actor see alpha as it was then.
So whole steps have to agree, once its 1e-6 in log(1 - y^2 + 1e-6) is 0. Its critics' loss is half
of ours: the same steps of an Adam whose own epsilon is halved, too.
"""

import math

import pytest
import torch
from off_policy_setting import Plain, setting
from offline_setting import as_in_a_run, flat, follow
from torch.nn.functional import mse_loss

from rlsuite.algorithms.off_policy import sac
from rlsuite.core.squashed import TanhGaussian

THEIR_EPSILON = 1e-6
SB3 = {"policy_delay": 1, "log_std_map": "clip", "critic_lr": 3e-4, "temperature_lr": 3e-4}


@pytest.fixture(autouse=True)
def one_thread():
    with as_in_a_run():
        yield


def action_log_prob(normal, noise: torch.Tensor, epsilon: float):
    """SB3's SquashedDiagGaussianDistribution: the action, and its log-density."""
    gaussian = normal.mean + normal.stddev * noise
    action = torch.tanh(gaussian)
    log_prob = normal.log_prob(gaussian).sum(1)
    return action, log_prob - torch.log(1 - action**2 + epsilon).sum(1)


class PlainSAC(Plain):
    """One seed as SB3's SAC.train has it."""

    def __init__(self, s, seed: int, epsilon: float = 0.0) -> None:
        super().__init__(s, seed)
        self.epsilon = epsilon
        self.critic_adam.param_groups[0]["eps"] = 0.5e-8
        start = math.log(s.config.temperature)
        self.log_alpha = torch.full((1,), start, dtype=torch.float64, requires_grad=True)
        self.alpha_adam = torch.optim.Adam([self.log_alpha], s.config.temperature_lr)

    def step(self, batch, noise: torch.Tensor) -> dict[str, float]:
        obs, y, reward, next_obs, done = batch
        action, log_prob = action_log_prob(self.actor(obs), noise[1], self.epsilon)
        alpha = self.log_alpha.detach().exp()
        target_entropy = -y.shape[1]
        alpha_loss = -(self.log_alpha * (log_prob + target_entropy).detach()).mean()
        self.alpha_adam.zero_grad()
        alpha_loss.backward()
        self.alpha_adam.step()
        with torch.no_grad():
            there, their_log_prob = action_log_prob(self.actor(next_obs), noise[0], self.epsilon)
            future = torch.min(*self.critic_target(next_obs, there)) - alpha * their_log_prob
            target = reward + (1 - done) * 0.99 * future
        critic_loss = 0.5 * sum(mse_loss(q, target) for q in self.critic(obs, y))
        self.critic_adam.zero_grad()
        critic_loss.backward()
        self.critic_adam.step()
        value = torch.min(*self.critic(obs, action))
        actor_loss = (alpha * log_prob - value).mean()
        self.actor_adam.zero_grad()
        actor_loss.backward()
        self.actor_adam.step()
        follow(self.critic_target, self.critic, 0.005)
        return {"critic_loss": 2 * critic_loss.item(), "actor_loss": actor_loss.item()}


@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_whole_steps_are_stable_baselines3s_without_its_epsilon(temperature):
    s = setting(sac, temperature=temperature, **SB3)
    plain = [PlainSAC(s, seed) for seed in (0, 1)]
    state = s.state
    for _ in range(3):
        state, metrics = s.cycle(state, s.batch, s.noise)
        for seed, theirs in enumerate(plain):
            losses = theirs.step([x[seed] for x in s.batch], s.noise[seed])
            for name, loss in losses.items():
                assert metrics[name][seed].item() == pytest.approx(loss, rel=1e-5)
    for seed, theirs in enumerate(plain):
        pairs = [
            (state.actor.theta, flat(theirs.actor)),
            (state.critic.theta, flat(theirs.critic)),
            (state.critic_target, flat(theirs.critic_target)),
            (state.log_temperature.theta, theirs.log_alpha.detach()),
        ]
        for ours, expected in pairs:
            torch.testing.assert_close(ours[seed], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("pre_tanh", "gap"),
    [
        # log(1 + 1e-6 / (1 - y^2)): at u = 0, y = 0: 1e-6
        (0.0, 1e-6),
        # u = 3: 1 - y^2 = 0.0098660, so log(1 + 1.01358e-4) = 1.01353e-4
        (3.0, 1.01353e-4),
        # u = 10: exact 2 (log 2 - 10) = -18.613706; log(8.2446e-9 + 1e-6) = -13.807300
        (10.0, 4.806406),
    ],
)
def test_their_epsilon_lowers_the_log_density_by_so_much(pre_tanh, gap):
    mean = torch.full((1, 1, 1), pre_tanh, dtype=torch.float64)
    noise = torch.zeros(1, 1, 1, dtype=torch.float64)
    _, ours = TanhGaussian(mean, torch.zeros_like(mean)).sample(noise)
    normal = torch.distributions.Normal(mean[0], torch.ones(1, 1, dtype=torch.float64))
    _, theirs = action_log_prob(normal, noise[0], THEIR_EPSILON)
    assert ours.item() - theirs.item() == pytest.approx(gap, rel=1e-4)


def test_their_epsilon_moves_the_losses_by_alpha_times_that_gap():
    s = setting(sac, temperature=0.5, **SB3)
    _, metrics = s.cycle(s.state, s.batch, s.noise)
    rows = [x[0] for x in s.batch]
    pi = PlainSAC(s, 0).actor(rows[0])
    pre_tanh = (pi.mean + pi.stddev * s.noise[0, 1]).detach()
    gap = torch.log1p(1e-6 / (1 - torch.tanh(pre_tanh) ** 2)).sum(1).mean().item()
    theirs = PlainSAC(s, 0, THEIR_EPSILON).step(rows, s.noise[0])["actor_loss"]
    exact = PlainSAC(s, 0).step(rows, s.noise[0])["actor_loss"]
    assert metrics["actor_loss"][0].item() == pytest.approx(exact, rel=1e-9)
    # The critics' targets have the gap, too, and Adam turns it into steps, so not to the last digit
    assert exact - theirs == pytest.approx(0.5 * gap, rel=0.2) and gap > 2e-6
