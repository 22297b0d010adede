"""SPOT's networks, one cycle's transitions and noise of every seed, and one seed in plain torch."""

from functools import partial
from types import SimpleNamespace

import torch
from offline_setting import (
    ACTIONS,
    HIGH,
    LOW,
    OBS,
    PlainActor,
    PlainCritics,
    batch_of,
    follow,
    normals,
    plain_mlp,
    thetas,
)
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from rlsuite.algorithms.offline.spot import (
    Config,
    Networks,
    Noise,
    State,
    actor_cycle,
    draw_noise,
)
from rlsuite.core.actors import BoundedActor, initial
from rlsuite.core.buffers import TransitionBatch
from rlsuite.core.critics import Critics
from rlsuite.core.optim import Net
from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.streams import Streams
from rlsuite.core.vae import ActionVAE

# Learning rates that move nothing, so that Adam's first moment is 0.1 gradients
STILL = {"actor_lr": 1e-30, "critic_lr": 1e-30}


def setting(seeds=(0, 1), rows=32, dtype=torch.float64, **changes) -> SimpleNamespace:
    """All that one cycle needs; targets differ from their networks, by default without dropout."""
    small = {"batch_size": rows, "hidden": (16, 8), "density_hidden": 12, "dropout": 0.0}
    config, streams = Config(**small | changes), Streams(seeds)
    rngs = streams["init"]
    policy = BoundedActor(OBS, LOW, HIGH, rngs=rngs, hidden=config.hidden).to(dtype)
    critics = Critics(OBS, ACTIONS, config.hidden)
    density = ActionVAE(policy, OBS, config.density_hidden)
    online = policy.theta.detach().clone(), critics.initial(rngs).to(dtype)
    fitted = initial(density.layout, rngs).to(dtype)
    targets = [x + 0.05 * normals(seeds, x.shape[1], dtype=dtype) for x in online]
    state = State(*map(Net.of, online), *targets)
    batch, noise = batch_of(seeds, rows * config.policy_freq, dtype), noise_of(locals())
    weight = torch.tensor(config.support_weight)
    cycle = partial(actor_cycle, Networks(policy, critics, density), config, fitted)
    return SimpleNamespace(**locals())


def noise_of(s: dict) -> Noise:
    """The next cycle's noise of every seed."""
    drawn = draw_noise(s["config"], s["policy"], SeedRandom(s["streams"]["action"]))
    drops = [masks and tuple(x.to(s["dtype"]) for x in masks) for masks in drawn.dropout]
    return Noise(drawn.target.to(s["dtype"]), drawn.latent.to(s["dtype"]), drops)


class PlainDensity(nn.Module):
    """Section 2a of the sheet."""

    def __init__(self, density: ActionVAE, theta: Tensor) -> None:
        super().__init__()
        parts = (plain_mlp(density.layout, theta, name) for name in ("encoder", "decoder"))
        self.encoder, self.decoder = parts
        self.centre, self.half_width = density.policy.centre, density.policy.half_width

    def loss(self, obs: Tensor, action: Tensor, xi: Tensor, beta: float) -> Tensor:
        """l(s, a) [B] with one latent sample from standard normal `xi`."""
        mean, log_std = self.encoder(torch.cat([obs, action], 1)).chunk(2, 1)
        std = log_std.clamp(-4, 15).exp()
        u = torch.tanh(self.decoder(torch.cat([obs, mean + std * xi], 1)))
        u = self.centre + self.half_width * u
        kl = -0.5 * (1 + torch.log(std**2) - mean**2 - std**2)
        return ((u - action) ** 2).mean(1) + beta * kl.mean(1)


class PlainSPOT:
    """One seed as section 2 of the sheet has it, with given noise and dropout masks."""

    def __init__(self, s: SimpleNamespace, seed: int) -> None:
        actor, critic, actor_target, critic_target = (x[seed] for x in thetas(s.state))
        self.config, self.half_width, self.seed = s.config, s.policy.half_width, seed
        self.low, self.high = (torch.tensor(x) for x in (LOW, HIGH))
        self.actor, self.actor_target = (PlainActor(s.policy, x) for x in (actor, actor_target))
        parts = (critic, critic_target)
        self.critic, self.critic_target = (PlainCritics(s.critics.layout, x) for x in parts)
        self.density = PlainDensity(s.density, s.fitted[seed])
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), s.config.actor_lr)
        self.critic_adam = torch.optim.Adam(self.critic.parameters(), s.config.critic_lr)

    def masks(self, noise: Noise, step: int) -> list[Tensor]:
        return [mask[self.seed] for mask in noise.dropout[step] or ()]

    def cycle(self, batch: TransitionBatch, noise: Noise, lam: float) -> None:
        normal = noise.target[self.seed]
        for step, rows in enumerate(torch.arange(len(normal)).chunk(2)):
            obs, action, reward, next_obs, done = (x[self.seed, rows] for x in batch)
            with torch.no_grad():
                eps = (0.2 * self.half_width * normal[rows]).clamp(
                    -0.5 * self.half_width, 0.5 * self.half_width
                )
                there = self.actor_target(next_obs, self.masks(noise, step)) + eps
                there = there.clamp(self.low, self.high)
                y = reward + 0.99 * (1 - done) * torch.min(*self.critic_target(next_obs, there))
            q1, q2 = self.critic(obs, action)
            self.critic_adam.zero_grad()
            (mse_loss(q1, y) + mse_loss(q2, y)).backward()
            self.critic_adam.step()
        self.actor_adam.zero_grad()
        self.actor_loss(obs, noise, lam).backward()
        self.actor_adam.step()
        follow(self.actor_target, self.actor, 0.005)
        follow(self.critic_target, self.critic, 0.005)

    def actor_loss(self, obs: Tensor, noise: Noise, lam: float) -> Tensor:
        p = self.actor(obs, self.masks(noise, 2))
        q = self.critic(obs, p)[0]
        penalty = self.density.loss(obs, p, noise.latent[self.seed], self.config.density_beta)
        scale = q.abs().mean().detach() if self.config.normalize_q else 1.0
        return -q.mean() / scale + lam * penalty.mean()

    def networks(self) -> list[nn.Module]:
        return [self.actor, self.critic, self.actor_target, self.critic_target]
