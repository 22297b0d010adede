"""FixPO held still for tests: on a small task, on a made-up batch, and once more in plain torch."""

import copy
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from ppo_setting import draw
from torch import distributions as reference
from torch import nn

from rlsuite.algorithms.on_policy.fixpo import Config, Learner, fixup, iterate, minibatch_step
from rlsuite.core.beta import Beta, BetaActorCritic
from rlsuite.core.distributions import DiagGaussian
from rlsuite.core.networks import ActorCritic
from rlsuite.core.normalizers import RunningStatistics
from rlsuite.core.optim import Net
from rlsuite.core.rollouts import Collector, RolloutBatch
from rlsuite.core.streams import Streams
from rlsuite.envs import make

KINDS = ("gaussian", "categorical", "beta")
SMALL = {"num_envs": 2, "num_steps": 32, "num_minibatches": 4, "fixup_minibatches": 2, "epochs": 2}
SMALL |= {"hidden": (16, 16), "env_steps": 256}


def independent(pi) -> reference.Distribution:
    """Ours as one of torch.distributions, a joint one over the action dimensions."""
    if isinstance(pi, DiagGaussian):
        std = pi.log_std.exp().expand_as(pi.mean)
        return reference.Independent(reference.Normal(pi.mean, std), 1)
    if isinstance(pi, Beta):
        return reference.Independent(reference.Beta(pi.alpha, pi.beta), 1)
    return reference.Categorical(logits=pi.logits)


def reference_kl(policy: ActorCritic, old, theta, obs) -> torch.Tensor:
    """KL(pi_old || pi_theta) of each state, [S, B], by torch.distributions."""
    pair = (independent(policy.distribution(x, obs)) for x in (old, theta))
    return reference.kl_divergence(*pair)


class Recorder:
    """`minibatch_step` that keeps what it was given and what it made of it."""

    def __init__(self, step) -> None:
        self.step, self.calls = step, []

    def __call__(self, actor, critic, lr, old, part):
        nets = {"actor": copy.deepcopy(actor), "critic": copy.deepcopy(critic)}
        *after, metrics = self.step(actor, critic, lr, old, part)
        kept = SimpleNamespace(**nets, lr=lr.item(), old=old, part=part, metrics=metrics)
        self.calls.append(kept)
        return *after, metrics


def learner_of(policy: ActorCritic, config: Config) -> Learner:
    beta = torch.full((len(policy.theta), 1), config.multiplier_init).to(policy.theta.dtype)
    actor, critic = policy.theta.tensor_split([policy.actor_size], 1)
    nets = Net.of(torch.cat((actor, beta), 1)), Net.of(critic)
    return Learner(policy, *nets, RunningStatistics(len(beta), 1))


def theta_of(actor: Net, critic: Net) -> torch.Tensor:
    """The policy's parameters [S, P], without the multiplier."""
    return torch.cat((actor.theta[:, :-1], critic.theta), 1)


def follow(m: SimpleNamespace) -> None:
    """Let the policy be what the learner's networks are."""
    m.policy.theta.copy_(theta_of(m.learner.actor, m.learner.critic))


def setting(kind="gaussian", seeds=(0, 1), **changes) -> SimpleNamespace:
    """4 iterations of 2 x 32 transitions, 2 epochs of 4 minibatches, and all they need."""
    config = Config(**SMALL | {"learning_rate": 1e-2, "max_kl": 0.02} | changes)
    streams = Streams(seeds)
    envs = make("CartPole-v1" if kind == "categorical" else "Drift-v0", seeds, config.num_envs)
    network = BetaActorCritic if kind == "beta" else ActorCritic
    policy = network.of(envs, config, streams["init"])
    learner = learner_of(policy, config)
    collector = Collector(envs, policy)
    collector.restart(streams.integers("environment", config.num_envs))
    step = Recorder(partial(minibatch_step, policy, config))
    return SimpleNamespace(**locals())


def run(s: SimpleNamespace, k: int = 0) -> dict[str, torch.Tensor]:
    """Iteration k; its metrics. What the update was given is in `s.step.calls`."""
    return iterate(s.config, s.learner, s.collector, s.streams, k, s.step)


def whole(s: SimpleNamespace) -> RolloutBatch:
    """The batch of the last iteration, in the order of its first epoch."""
    parts = [call.part for call in s.step.calls[: s.config.num_minibatches]]
    return RolloutBatch(*(torch.cat(x, 1) for x in zip(*parts, strict=True)))


def made_up(kind="gaussian", seeds=(0, 1), double=False, **changes) -> SimpleNamespace:
    """A policy of each seed, 64 transitions that it might have made, and a learner at its start."""
    config = Config(**SMALL | changes)
    rngs = [np.random.default_rng(seed) for seed in seeds]
    network = BetaActorCritic if kind == "beta" else ActorCritic
    options = {"rngs": rngs, "hidden": config.hidden, "log_std_init": config.log_std_init}
    policy = network(5, 3, kind == "categorical", **options)
    policy.theta += torch.stack([0.2 * draw(50 + seed, policy.layout.size) for seed in seeds])
    obs = torch.stack([draw(100 + seed, 64, 5) for seed in seeds])
    behaviour = policy.behaviour()
    noise = behaviour.noise([np.random.default_rng(200 + seed) for seed in seeds], 64)
    action = torch.from_numpy(behaviour.act_normalized(obs.numpy(), noise)[0])
    if double:
        policy, obs = policy.double(), obs.double()
        action = action if kind == "categorical" else action.double()
    advantage, target = torch.stack([draw(300 + x, 2, 64) for x in seeds], 1).to(obs.dtype)
    old_log_prob = policy.distribution(policy.theta, obs).log_prob(action)
    old_value = policy.value(policy.theta, obs)
    batch = RolloutBatch(obs, action, old_log_prob, old_value, 3 * advantage, 4 * target)
    old, lr = policy.theta[:, : policy.actor_size].clone(), torch.tensor(config.learning_rate)
    learner = learner_of(policy, config)
    return SimpleNamespace(**locals())


def constant(kind: str, old: list[float], new: list[float], **changes) -> SimpleNamespace:
    """Made up for one seed: all weights 0, the policy's head bias `old` and then moved to `new`.

    A Gaussian's first number is its log_std instead; its standard deviations are 1 otherwise.
    """
    m = made_up(kind, seeds=(0,), **changes)
    m.policy.theta.zero_()
    views = m.policy.layout.views(m.policy.theta)
    place = views["log_std" if kind == "gaussian" else "actor.2.bias"][0, 0]
    place[: len(old)] = torch.tensor(old)
    m.old = m.policy.theta[:, : m.policy.actor_size].clone()
    place[: len(new)] = torch.tensor(new)
    m.learner = learner_of(m.policy, m.config)
    return m


def displace(m: SimpleNamespace, seed: int, by: float = 0.1) -> None:
    """Move the actor of one slot away from pi_old, at random."""
    m.learner.actor.theta[seed, :-1] += by * draw(400 + seed, m.policy.actor_size)
    follow(m)


def repair(m: SimpleNamespace) -> torch.Tensor:
    """Phase two alone: [2, S], steps taken and bisections."""
    repairs = fixup(m.config, m.learner, m.batch, m.old, m.lr, m.rngs)
    follow(m)
    return repairs


def everything(m: SimpleNamespace, seed: int) -> list[torch.Tensor]:
    """Copies of all that an update may change of one slot."""
    actor, critic = m.learner.actor, m.learner.critic
    parts = (actor.theta[:, :-1], actor.theta[:, -1:], *actor.adam, critic.theta, *critic.adam)
    return [x[seed].clone() for x in parts]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class PlainFixPO:
    """The fact sheet's pseudo-code for one seed: autograd, torch.optim, torch.distributions."""

    def __init__(self, m: SimpleNamespace, seed: int) -> None:
        self.config, self.kind, self.fixup_steps = m.config, m.kind, 0
        views = m.policy.layout.views(m.policy.theta)
        self.p = {name: view[seed].clone().requires_grad_() for name, view in views.items()}
        self.beta = m.learner.actor.theta[seed, -1:].clone().requires_grad_()
        self.critic = [p for name, p in self.p.items() if name.startswith("critic")]
        self.actor = [p for name, p in self.p.items() if not name.startswith("critic")]
        lr = self.config.learning_rate
        self.of_actor = torch.optim.Adam(self.actor, lr=lr)
        self.of_critic = torch.optim.Adam(self.critic, lr=lr)
        self.of_beta = torch.optim.Adam([self.beta], lr=self.config.multiplier_lr)

    def flat(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self.p.values()])

    def output(self, name, obs, p):
        for i in (0, 1):
            obs = torch.tanh(obs @ p[f"{name}.{i}.weight"].T + p[f"{name}.{i}.bias"])
        return obs @ p[f"{name}.2.weight"].T + p[f"{name}.2.bias"]

    def pi(self, obs, p):
        out = self.output("actor", obs, p)
        if self.kind == "categorical":
            return reference.Categorical(logits=out)
        if self.kind == "beta":
            shapes = (1 + nn.functional.softplus(out)).chunk(2, -1)
            return reference.Independent(reference.Beta(*shapes), 1)
        return reference.Independent(reference.Normal(out, p["log_std"].exp()), 1)

    def kl(self, obs):
        return reference.kl_divergence(self.pi(obs, self.old), self.pi(obs, self.p))

    def loss(self, rows) -> torch.Tensor:
        obs, action, old_log_prob, old_value, advantage, target = rows
        ratio = (self.pi(obs, self.p).log_prob(action) - old_log_prob).exp()
        value, clip = self.output("critic", obs, self.p)[:, 0], self.config.value_clip
        error = (value - target) ** 2
        if clip is not None:
            near = old_value + torch.clamp(value - old_value, -clip, clip)
            error = torch.maximum(error, (near - target) ** 2)
        # c_V on the whole squared error is half of ours on half of it
        return -(ratio * advantage).mean() + self.config.value_coef / 2 * error.mean()

    def step(self, loss: torch.Tensor, kl: torch.Tensor) -> None:
        """Adam on loss + beta mean KL, then Adam on the multiplier's loss."""
        c = self.config
        stat = (kl.max() if c.kl_stat == "max" else kl.mean()).detach()
        everybody = (self.of_actor, self.of_critic, self.of_beta)
        for optimizer in everybody:
            optimizer.zero_grad()  # sets gradients to None: what has none does not move
        (loss + self.beta.detach() * kl.mean()).backward()
        nn.utils.clip_grad_norm_(self.p.values(), c.max_grad_norm)
        (self.beta * (c.max_kl - c.target_coef * stat)).backward()
        for optimizer in everybody:
            optimizer.step()
        self.beta.data.clamp_(min=0)

    def outside(self, kl: torch.Tensor) -> bool:
        return (kl.max() if self.config.kl_stat == "max" else kl.mean()).item() > self.config.max_kl

    def update(self, batch: list[torch.Tensor], rng: np.random.Generator) -> None:
        """One iteration on a batch [M, ...], in the order of sections 2.2 and 2.3."""
        c, obs = self.config, batch[0]
        self.old = {name: p.detach().clone() for name, p in self.p.items()}
        for epoch in range(c.epochs):
            order = torch.from_numpy(rng.permutation(len(obs)))
            for rows in order.chunk(c.num_minibatches):
                self.step(self.loss([x[rows] for x in batch]), self.kl(obs[rows]))
            if c.fixup == "off" or (c.fixup == "last" and epoch < c.epochs - 1):
                continue
            while self.outside(self.kl(obs).detach()):
                order = torch.from_numpy(rng.permutation(len(obs)))
                for rows in order.chunk(c.fixup_minibatches):
                    kl = self.kl(obs[rows])
                    if self.outside(kl.detach()):
                        self.step(torch.zeros(()), kl)
                        self.fixup_steps += 1
