"""A2PR's networks, one cycle's transitions and noise of every seed, and one seed in plain torch."""

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

from rlsuite.algorithms.offline.a2pr import Config, Setup, State, actor_cycle
from rlsuite.core.actors import BoundedActor
from rlsuite.core.buffers import TransitionBatch
from rlsuite.core.critics import Critics, StateValue
from rlsuite.core.optim import Net
from rlsuite.core.streams import Streams
from rlsuite.core.vae import ActionVAE

# Learning rates that move nothing, so that Adam's first moment is 0.1 gradients
STILL = {"actor_lr": 1e-30, "critic_lr": 1e-30, "vae_lr": 1e-30}


def noise_of(seeds, rows: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Of two critic steps: of a', of the VAE's own steps, of the candidate."""
    each = normals(seeds, 5 * rows, 2 * ACTIONS, dtype=dtype)
    target, rebuilt, candidate = each.split([2 * rows, 2 * rows, rows], 1)
    return [2 * target[..., :ACTIONS], rebuilt, candidate]


def setting(seeds=(0, 1), rows=32, dtype=torch.float64, **changes) -> SimpleNamespace:
    """All that one cycle needs; targets differ from their networks."""
    small = {"batch_size": rows, "hidden": (16, 8), "critic_hidden": (12, 8), "vae_hidden": 12}
    config = Config(**small | changes)
    rngs = Streams(seeds)["init"]
    policy = BoundedActor(OBS, LOW, HIGH, rngs=rngs, hidden=config.hidden).to(dtype)
    critics = Critics(OBS, ACTIONS, config.critic_hidden)
    values = StateValue(OBS, config.critic_hidden)
    vae = ActionVAE(policy, OBS, config.vae_hidden)
    online = [policy.theta.detach().clone()]
    online += [x.initial(rngs).to(dtype) for x in (critics, values, vae)]
    targets = [x + 0.05 * normals(seeds, x.shape[1], dtype=dtype) for x in online[:2]]
    state = State(*map(Net.of, online), *targets)
    batch, noise = batch_of(seeds, 2 * rows, dtype), noise_of(seeds, rows, dtype)
    setup = Setup(config, policy, critics, values, vae)
    cycle = partial(actor_cycle, setup)
    return SimpleNamespace(**locals())


class PlainVAE(nn.Module):
    """750-750 in the paper's runs; the encoder's two heads side by side."""

    def __init__(self, vae: ActionVAE, theta: Tensor) -> None:
        super().__init__()
        self.encoder, self.decoder = (
            plain_mlp(vae.layout, theta, name) for name in ("encoder", "decoder")
        )
        self.centre, self.half_width = vae.policy.centre, vae.policy.half_width

    def forward(self, obs: Tensor, action: Tensor, xi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_std = self.encoder(torch.cat([obs, action], 1)).chunk(2, 1)
        std = log_std.clamp(-4, 15).exp()
        return self.decode(obs, mean + std * xi), mean, std

    def decode(self, obs: Tensor, z: Tensor) -> Tensor:
        u = torch.tanh(self.decoder(torch.cat([obs, z], 1)))
        return self.centre + self.half_width * u


class PlainA2PR:
    """One seed as section 2 of the sheet has it."""

    def __init__(self, s: SimpleNamespace, seed: int) -> None:
        actor, critic, value, vae, actor_target, critic_target = (x[seed] for x in thetas(s.state))
        self.config, self.half_width = s.config, s.policy.half_width
        self.low, self.high = (torch.tensor(x) for x in (LOW, HIGH))
        self.actor, self.actor_target = (PlainActor(s.policy, x) for x in (actor, actor_target))
        parts = (critic, critic_target)
        self.critic, self.critic_target = (PlainCritics(s.critics.layout, x) for x in parts)
        self.value = plain_mlp(s.values.layout, value, "v")
        self.vae = PlainVAE(s.vae, vae)
        rates = (s.config.actor_lr, s.config.critic_lr, s.config.critic_lr, s.config.vae_lr)
        modules = (self.actor, self.critic, self.value, self.vae)
        self.adams = [
            torch.optim.Adam(module.parameters(), lr)
            for module, lr in zip(modules, rates, strict=True)
        ]

    def minimise(self, which: int, loss: Tensor) -> None:
        self.adams[which].zero_grad()
        loss.backward()
        self.adams[which].step()

    def cycle(self, batch: TransitionBatch, noise: list[Tensor]) -> None:
        c, rows = self.config, len(noise[0]) // 2
        for k in (0, 1):
            part = slice(k * rows, (k + 1) * rows)
            obs, action, reward, next_obs, done = (x[part] for x in batch)
            with torch.no_grad():
                eps = (0.2 * self.half_width * noise[0][part]).clamp(
                    -0.5 * self.half_width, 0.5 * self.half_width
                )
                there = (self.actor_target(next_obs) + eps).clamp(self.low, self.high)
                q = torch.min(*self.critic_target(next_obs, there))
                y = reward + c.discount * (1 - done) * q
            q1, q2 = self.critic(obs, action)
            self.minimise(1, mse_loss(q1, y) + mse_loss(q2, y))
            with torch.no_grad():
                online = torch.min(*self.critic(next_obs, there))
                t = torch.min(reward + c.discount * (1 - done) * online, y)
            v = self.value(obs)[:, 0]
            self.minimise(2, mse_loss(v, t))
            v = v.detach()
            u, mean, std = self.vae(obs, action, noise[1][part])
            with torch.no_grad():
                q_a = self.critic(obs, action)[0]
            mask = c.vae_weight * (q_a > v)[:, None]
            kl = -0.5 * (1 + torch.log(std**2) - mean**2 - std**2).mean()
            self.minimise(3, (mask * (u - action) ** 2).mean() + c.kl_weight * kl)
        self.minimise(0, self.actor_loss(obs, action, q_a, v, noise[2]))
        follow(self.actor_target, self.actor, c.polyak)
        follow(self.critic_target, self.critic, c.polyak)

    def actor_loss(self, obs: Tensor, action: Tensor, q_a: Tensor, v: Tensor, xi: Tensor) -> Tensor:
        c, p = self.config, self.actor(obs)
        q = self.critic(obs, p)[0]
        lam = c.alpha / q.abs().mean().detach()
        if c.candidate == "prior":
            candidate = self.vae.decode(obs, xi.clamp(-0.5, 0.5))
        else:
            candidate = self.vae(obs, p, xi)[0]
        candidate = candidate.detach() if c.candidate == "detached" else candidate
        with torch.no_grad():
            q_v = self.critic(obs, candidate)[0]
        preferred = (q_v - v >= q_a - v)[:, None]
        target = candidate * preferred + action * ~preferred
        mask = c.imitation_weight * ((q_v >= v) + (q_a > v))[:, None]  # of truth values: or
        return -lam * q.mean() + (mask * (p - target) ** 2).mean()

    def networks(self) -> list[nn.Module]:
        return [
            self.actor,
            self.critic,
            self.value,
            self.vae,
            self.actor_target,
            self.critic_target,
        ]
