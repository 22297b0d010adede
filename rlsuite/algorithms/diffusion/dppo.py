"""DPPO: Diffusion Policy Policy Optimization (Ren et al. 2024, arXiv 2409.00588).

For S seeds at once, each with its own everything. First clone chunks a of T_p logged actions:

    (1)  draw (s, a), a step t of K and noise eps; x = sqrt(abar) a + sqrt(1 - abar) eps
    (2)  AdamW on mean (eps_theta(x, t, s) - eps)^2
    (3)  average the weights: they, not theta, are base (frozen) and the start of the tuned copy
Then iterate, in N environments, for T decisions; a decision is K denoising steps of inner reward 0:
    (4)  x <- mu(x, eps(x, t, s)) + max(sigma_t, floor) noise, the last K' steps by the tuned copy,
         noise in the last one, too; keep these K' + 1 x; T_a actions of the result are executed
    (5)  r = sum of a chunk's rewards, over the running std of its discounted sum
    (6)  log pi_old of each tuned step: mean over dimensions of the clamped log densities
    (7)  advantages A and value targets R by GAE over decisions, one discount for each
    for epoch = 1..E, for each minibatch of (decision, step) pairs, shuffled:
    (8)      A <- (A - mean A) / (std A + 1e-8), then times gamma_d^(steps before the executed one)
    (9)      eps_i grows from base to top: the noisiest step is clipped most
    (10)     theta <- Adam on mean max(-A rho, -A clip(rho, 1 - eps_i, 1 + eps_i))
    (11)     critic <- Adam on c_V mean (V(s) - R)^2 / 2

| symbol | variable | shape | meaning |
|---|---|---|---|
| theta | actor | [S, P] | the tuned copy, while it is trained; base is the first half of policy |
| x | chain | [S, M, K' + 1, D] | D = T_p times action dimensions, scaled to +-1 |
| i | i | [S, B] | tuned step of a pair, 0 the noisiest; t = K' - 1 - i |
| rho | log_ratio | [S, B] | pi_theta(x_{t-1}|x_t, s) / pi_old, as its logarithm |
| A, R | advantage, target | [S, M] | GAE advantage and value target of M = T N decisions |
| V | value | [S, M] | of the observation alone |

Departures from the release, whose settings these are: a time limit is bootstrapped from the true
final observation (`bootstrap_on_truncation=False` is theirs); environments restart at every
checkpoint; actions are clipped before the physics; a Gaussian is tuned from averaged weights, too;
all episodes are cloned, incomplete batches are not. Without data actions are scaled by their box
and observations by running statistics, where theirs have the limits of a data set.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rlsuite.core.chunk_data import LoggedChunks, RolloutScaler
from rlsuite.core.chunk_rollouts import ChunkCollector, Experience, minibatches
from rlsuite.core.chunks import UNITS, ChunkPolicy, StateCritic, log_densities, require_blocks
from rlsuite.core.clones import start_policy
from rlsuite.core.diffusion import Schedule, ddpm, noised
from rlsuite.core.optim import Loss, Metrics, Net, adam_step, descend
from rlsuite.core.ranges import (
    Declared,
    RunFolder,
    require_choice,
    require_positive,
    require_whole,
    require_within,
)
from rlsuite.core.rollouts import RolloutSettings, approximate_kl, factors, flat, gae, standardise
from rlsuite.core.row_blocks import BLOCK, blockwise_gradient, in_blocks

AVERAGE_DECAY = 0.995  # of the average of the clone's weights [release]
REWARD_DISCOUNT = 0.99  # of the sum whose std scales the rewards, whatever gamma is [release]
VALUE_COEF = 0.5  # c_V, the weight of the critic's loss [release]
LOW, HIGH = -5.0, 2.0  # of log densities [release]

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config(RolloutSettings):
    policy: str = "diffusion"  # diffusion, or gaussian for the paper's comparison [paper]
    denoising_steps: int = 20  # K [paper; release]
    tuned_steps: int = 10  # K', the last ones; without gradient before [paper; release]
    ddim_steps: int = 0  # of K that are sampled, by DDIM; 0: all, by DDPM [release: pixels 5]
    chunk: int = 4  # T_p, actions that are denoised together [release]
    acting: int = 4  # T_a, actions that are executed of them [release]
    clone: RunFolder | None = None  # run folder whose clone to use instead [release: a file]
    clone_epochs: int = 200  # passes over the data; 0: from scratch [release; v0.6: 3000]
    clone_batch: int = 128  # chunks per step of cloning [paper; release]
    clone_lr: float = 1e-3  # of AdamW, after an epoch of warm-up [release]
    clone_last_lr: float = 1e-4  # to which a cosine leads over all epochs; warm-up starts [release]
    weight_decay: float = 1e-6  # of AdamW [release]
    average_unit: str = "batch"  # what average_every counts: batch or epoch [release; v0.6: epoch]
    average_every: int = 10  # of these per update of the average [release; v0.6: 5]
    average_from: int = 20  # epoch before which the average is the weights [release; v0.6: 10]
    least_std: float = 0.1  # floor of sigma where actions explore [paper; release]
    density_std: float = 0.1  # floor of sigma in log-probabilities [release]
    std_init: float | None = 0.1  # of a Gaussian; None: depends on the state [release: robomimic]
    std_most: float = 0.2  # of a Gaussian [release: robomimic; from scratch 1]
    actor_lr: float = 1e-4  # of Adam, constant [paper; release]
    critic_lr: float = 1e-3  # of Adam, constant [paper; release]
    critic_warmup: int = 0  # iterations in which the critic alone learns [release; robomimic 2]
    discount: float = 0.99  # gamma, per decision [paper; release]
    gae_lambda: float = 0.95  # lambda of GAE, per decision [release]
    denoising_discount: float = 0.99  # gamma_d [paper; release]
    clip: float = 0.01  # top: eps at the executed step [paper; release]
    clip_base: float = 0.01  # base: eps at the noisiest tuned step [release; robomimic 0.001]
    clip_rate: float = 3.0  # of the growth between the two [release]
    target_kl: float = 1.0  # KL estimate, nats, that ends a seed's epochs [release]
    epochs: int = 5  # E, passes over the pairs [release]
    batch_size: int = 50_000  # B, pairs of a decision and a denoising step [release]
    env_steps: int = 72_000_000  # environment steps of each seed [release: 900 iterations]
    num_envs: int = 40  # N, environments per seed [paper; release]
    num_steps: int = 500  # T, decisions per environment and iteration [paper; release]
    normalize_reward: bool = True  # by the std of the discounted sum, +-10 [release]
    bootstrap_on_truncation: bool = True  # [ours; release: False on Gym and kitchen]
    hidden: tuple[int, ...] = (512, 512, 512)  # a layer, then residual blocks of two [release]
    condition: tuple[int, ...] = ()  # layers for the observation alone [release: kitchen 128 32]
    activation: str = "relu"  # of the actor, relu or mish [release: Gym; elsewhere mish]
    residual: bool = True  # blocks add to their input [release; Gaussian from scratch: no]
    time_dim: int = 16  # size of the time's embedding [release]
    critic_hidden: tuple[int, ...] = (256, 256, 256)  # residual, Mish [release]

    def __post_init__(self) -> None:
        require_whole(self, "denoising_steps", "chunk", "clone_batch", "average_every", "epochs")
        require_whole(self, "batch_size", "num_envs", "num_steps", "hidden", "critic_hidden")
        require_within(self, 0, math.inf, "clone_epochs", "average_from", "critic_warmup")
        require_within(self, 0, math.inf, "actor_lr", "critic_lr", "weight_decay")
        require_within(self, 0, 1, "discount", "gae_lambda", "denoising_discount", "least_std")
        require_positive(self, "clone_lr", "clone_last_lr", "density_std", "clip", "clip_rate")
        require_positive(self, "std_init", "target_kl")
        require_within(self, 0, self.clip, "clip_base")
        require_within(self, 0.01, math.inf, "std_most")
        require_choice(self, "policy", ("diffusion", "gaussian"))
        require_choice(self, "average_unit", ("batch", "epoch"))
        require_choice(self, "activation", UNITS)
        require_within(self, 1, self.chunk, "acting")
        require_within(self, 0, self.denoising_steps, "ddim_steps")
        require_within(self, 1, self.ddim_steps or self.denoising_steps, "tuned_steps")
        require_blocks(self, "hidden", "critic_hidden")
        require_within(self, 2, self.rollout_size // self.acting * self.tuned, "batch_size")
        require_within(self, self.rollout_size, math.inf, "env_steps")

    @property
    def tuned(self) -> int:
        """K': transitions of a chain that are trained; a Gaussian has one."""
        return self.tuned_steps if self.policy == "diffusion" else 1

    @property
    def rollout_size(self) -> int:
        return self.num_envs * self.num_steps * self.acting

    @property
    def declared(self) -> Declared:
        minibatches = self.rollout_size // self.acting * self.tuned // self.batch_size
        steps = self.iterations * self.epochs * minibatches
        rates = ("clone_lr", "clone_last_lr", "actor_lr", "critic_lr")
        variant = "" if self.policy == "diffusion" else self.policy
        counts = min(self.batch_size, BLOCK), self.env_steps, steps
        return Declared(self.hidden, *counts, rates, self.num_envs, variant=variant)


# ------------------------------------------------------------------------------------ 3. Presets

_V06 = dict(clone_epochs=3000, average_unit="epoch", average_every=5, average_from=10)
_SCRATCH = dict(clone_epochs=0, denoising_steps=10, chunk=1, acting=1, num_envs=10, num_steps=1000,
                epochs=10, clip=0.1, clip_base=0.1, least_std=0.1)  # fmt: skip
_NOW = _SCRATCH | dict(batch_size=5000, denoising_discount=1.0)  # since v0.7
_FORMER = _SCRATCH | dict(batch_size=10_000, env_steps=9_000_000)  # v0.6
_GAUSS = dict(policy="gaussian", residual=False, std_init=None, std_most=1.0)
_KITCHEN = dict(num_steps=70, batch_size=5600, epochs=10, hidden=(256, 256, 256), activation="mish",
                condition=(128, 32), clone_epochs=3000, env_steps=3_024_000)  # fmt: skip

# preset -> task family ("*": any) -> what differs. env_steps: without evaluating iterations
PRESETS: dict[str, dict[str, dict]] = {
    "gym": {"*": {}},  # today's release
    "gym-v0.6": {"*": _V06},  # the paper's
    "gym-gaussian": {"*": dict(policy="gaussian", batch_size=5000)},  # ours: none is published
    "scratch": {"*": _NOW | dict(env_steps=4_500_000), "Hopper": dict(env_steps=2_700_000)},
    "scratch-v0.6": {"*": _FORMER},
    "scratch-gaussian": {"*": _NOW | _GAUSS | dict(batch_size=500, env_steps=4_500_000),
                         "Hopper": dict(env_steps=2_700_000)},
    "scratch-gaussian-v0.6": {"*": _FORMER | _GAUSS | dict(batch_size=1000)},
    "kitchen": {"*": _KITCHEN},
    "kitchen-v0.6": {"*": _KITCHEN | _V06 | dict(clone_epochs=8000)},
    "smoke": {"*": dict(env_steps=1024, num_envs=2, num_steps=16, batch_size=32, epochs=2,
                        denoising_steps=4, tuned_steps=2, hidden=(32, 32, 32), clone_batch=32,
                        critic_hidden=(32, 32, 32), clone_epochs=4, average_from=4)},  # ours
}  # fmt: skip

# --------------------------------------------------------------------------------- 5. Objectives


def denoising_loss(guess: Tensor, noise: Tensor) -> Tensor:
    """Squared error, mean over chunks and dimensions. [S, B, D] (or [S, B]) -> [S]."""
    return (guess - noise).square().flatten(1).mean(1)


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip: Tensor) -> Tensor:
    """mean max(-A rho, -A clip(rho, 1 - eps_i, 1 + eps_i)). [S, B] -> [S]."""
    ratio = log_ratio.clamp(-20, 20).exp()
    clipped = torch.minimum(torch.maximum(ratio, 1 - clip), 1 + clip)
    return torch.maximum(-advantage * ratio, -advantage * clipped).mean(1)


def value_loss(value: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Half the squared error, summed with weights that add up to 1. [S, B] -> [S]."""
    return 0.5 * (weight * (value - target).square()).sum(1)


OBJECTIVES = (denoising_loss, clipped_surrogate, value_loss, approximate_kl)

# ------------------------------------------------------------------------------------- 6. Update


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: ChunkPolicy
    clone: Net
    average: Tensor  # [S, P], of the clone's weights
    actor: Net
    critic: Net
    scaler: RolloutScaler
    taken: Tensor  # [S], environment steps


def clone_lr(config: Config, epoch: int) -> float:
    """Of an epoch from 0: one of warm-up, then a cosine."""
    share = (epoch - 1) / max(config.clone_epochs - 1, 1) if epoch else 1
    low, high = config.clone_last_lr, config.clone_lr
    return low + (high - low) * (1 + math.cos(math.pi * share)) / 2


def average_rate(config: Config, epoch: int, batch: int, steps: int) -> float:
    """Share of the new weights in their average, after a batch from 0 of an epoch from 0."""
    if epoch + 1 < config.average_from:
        return 1.0
    every, number = config.average_every, epoch * steps + batch + 1
    if config.average_unit == "epoch":
        number = epoch + 1 if batch == steps - 1 else 1 / 2
    return 1 - AVERAGE_DECAY if number % every == 0 else 0.0


def clone(config: Config, learner: Learner, chunks: LoggedChunks, step, epoch: int) -> Metrics:
    """An epoch of cloning: metrics [S] of its last step."""
    lr = torch.tensor(clone_lr(config, epoch))
    chunks.shuffle()
    for batch in range(chunks.steps):
        rate = torch.tensor(average_rate(config, epoch, batch, chunks.steps))
        given = learner.clone, learner.average, lr, rate
        learner.clone, learner.average, metrics = step(*given)
    learner.policy.use(learner.average, learner.average)
    learner.actor = Net.of(learner.average)
    return metrics


def clone_step(
    policy: ChunkPolicy, config: Config, table, net: Net, average, lr, rate, obs, clean, t, noise
) -> tuple[Net, Tensor, Metrics]:
    """One step of cloning. Pure."""

    def loss(theta):
        weights = policy.prepared(theta, table.time)
        features = policy.features(weights, obs)
        if policy.form.steps:
            x = noised(table, clean, noise, t)  # (1)
            error = denoising_loss(policy.guess(weights, features, x, t), noise)
        else:  # a Gaussian's mean; its spread stays
            mean, _ = policy.transition(weights, features, clean, t, table)
            error = denoising_loss(mean, clean)
        return error, {"imitation": error}

    new, metrics = descend(net, lr, loss)  # (2)
    net = new._replace(theta=new.theta - lr * config.weight_decay * net.theta)
    return net, average + rate * (net.theta - average), metrics  # (3)


def finetune(config: Config, learner: Learner, collector, streams, step, ready, k) -> Metrics:
    """Iteration k, from 0: metrics [S]; `ready` is `make_batch`, `step` is `update`."""
    rollout = collector.collect(config.num_steps, streams["action"])  # (4)
    learner.taken = learner.taken + torch.from_numpy(rollout.taken)
    data = ready(rollout)
    on, metrics = torch.ones(len(learner.taken)), {"kl": torch.zeros(1)}
    for _ in range(config.epochs):
        on = on * (metrics["kl"] <= config.target_kl)
        actor_on = on * float(k >= config.critic_warmup)
        for pairs, states in minibatches(data, config.batch_size, streams["batch"]):
            given = (learner.actor, learner.critic, actor_on, on, pairs, states)
            learner.actor, learner.critic, metrics = step(*given)
    learner.policy.use(learner.policy.parts()[0], learner.actor.theta)
    metrics["explained_variance"] = data.explained_variance()
    metrics["env_steps"] = learner.taken
    return metrics


def log_prob(policy: ChunkPolicy, table: Schedule, theta: Tensor, obs, x, after, i) -> Tensor:
    """log pi_theta(after | x, obs) of tuned steps i [S, B]: a mean over what is executed. [S, B].

    A diffusion's elements are clamped before the mean, a Gaussian's mean itself, as released.
    """
    form, weights = policy.form, policy.prepared(theta)
    features, t = policy.features(weights, obs), form.tuned - 1 - i
    mean, std = policy.transition(weights, features, x, t, table)
    each = log_densities(after, mean, std)[..., : form.acting * policy.action_size]
    if form.steps:
        return each.clamp(LOW, HIGH).mean(-1)
    return each.mean(-1).clamp(LOW, HIGH)


def clip_schedule(config: Config) -> Tensor:
    """eps_i [K'], not decreasing; where there is one step, it has the top."""
    last = config.tuned - 1
    u = torch.arange(last + 1) / last if last else torch.ones(1)
    share = torch.expm1(config.clip_rate * u) / math.expm1(config.clip_rate)
    return config.clip_base + (config.clip - config.clip_base) * share


def denoising_discounts(config: Config) -> Tensor:
    """gamma_d^(K' - 1 - i) [K']: 1 at the executed step."""
    return config.denoising_discount ** torch.arange(config.tuned - 1, -1, -1.0)


@torch.no_grad()
def make_batch(config: Config, learner: Learner, critic, table: Schedule, rollout) -> Experience:
    """The rollout in rows of decisions, with log-probabilities, advantages and targets."""
    reward = rollout.reward.astype("float32")
    if config.normalize_reward:
        reward = learner.scaler.scale(rollout.reward, rollout.first, REWARD_DISCOUNT)  # (5)
    obs, next_obs = flat(rollout.obs), flat(rollout.next_obs)
    chain = flat(rollout.chain)
    density = partial(log_prob, learner.policy, table, learner.actor.theta)
    old = []
    for i in range(config.tuned):
        index = torch.full(obs.shape[:2], i)
        given = obs, chain[:, :, i], chain[:, :, i + 1], index
        old.append(in_blocks(density, *given))  # (6)
    value = partial(critic.value, learner.critic.theta)
    value, next_value = (in_blocks(value, x) for x in (obs, next_obs))
    shaped = (x.view(reward.shape).numpy() for x in (value, next_value))
    bootstrap = config.bootstrap_on_truncation
    ends = factors(rollout.terminated, rollout.truncated, bootstrap)
    found = gae(reward, *shaped, *ends, config.discount, config.gae_lambda)  # (7)
    advantage, target = map(flat, found)
    return Experience(obs, chain, torch.stack(old, 2), advantage, target, value)


def update(
    policy: ChunkPolicy, critic: StateCritic, config: Config, table: Schedule,
    actor: Net, values: Net, actor_on: Tensor, on: Tensor, pairs, states,
) -> tuple[Net, Net, Metrics]:  # fmt: skip
    """One minibatch: a step of the actor and of the critic, for the seeds that are on. Pure."""
    advantage = standardise(pairs.advantage) * denoising_discounts(config)[pairs.i]  # (8)
    clip = clip_schedule(config)[pairs.i]  # (9)
    pairs = pairs._replace(advantage=advantage, clip=clip)

    def actor_loss(theta, obs, x, after, i, old, advantage, clip) -> Loss:
        log_ratio = log_prob(policy, table, theta, obs, x, after, i) - old
        surrogate = clipped_surrogate(log_ratio, advantage, clip)  # (10)
        metrics = {"policy_loss": surrogate, "kl": approximate_kl(log_ratio)}
        outside = ((log_ratio.exp() - 1).abs() > clip).float().mean(1)
        return surrogate, metrics | {"clip_fraction": outside}

    def critic_loss(theta, obs, target, weight) -> Loss:
        error = value_loss(critic.value(theta, obs), target, weight)  # (11)
        return VALUE_COEF * error, {"value_loss": error}

    grad, metrics = blockwise_gradient(actor_loss, actor.theta, pairs)
    actor = Net(*adam_step(actor.theta, grad, actor.adam, config.actor_lr, actor_on))
    grad, more = blockwise_gradient(critic_loss, values.theta, states, mean=False)
    lr = config.critic_lr
    values = Net(*adam_step(values.theta, grad, values.adam, lr, on))
    return actor, values, metrics | more


# -------------------------------------------------------------------------------------- 7. Train


def train(config: Config, run) -> None:
    """Train on `run.task` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    data = run.data() if run.settings.dataset else None
    envs = run.environments(config.num_envs)
    policy = start_policy(config, run, data, envs)
    critic = StateCritic(envs.obs_size, config.critic_hidden)
    nets = [Net.of(policy.parts()[1]) for _ in range(2)]
    values = Net.of(critic.initial(run.streams["init"]))
    scaler = RolloutScaler(len(run.seeds), config.num_envs)
    taken = torch.zeros(len(run.seeds), dtype=torch.float64)
    average = nets[0].theta.clone()
    learner = Learner(policy, nets[0], average, nets[1], values, scaler, taken)
    epochs, stages = 0 if config.clone else config.clone_epochs, {}
    if epochs:
        chunks = LoggedChunks(data, policy, config.clone_batch, run.random("batch"))
        step = partial(clone_step, policy, config, ddpm(config.denoising_steps))
        cloning = run.update(step, chunks.draw, epochs * chunks.steps)
        stages = {"clone": (epochs, chunks.steps)}
    table = policy.schedule(least_std=config.density_std)
    ready = partial(make_batch, config, learner, critic, table)
    tuning = run.update(partial(update, policy, critic, config, table))
    collector = ChunkCollector(envs, policy)
    tuned = {"finetune": (config.iterations, config.rollout_size)}
    run.begin(learner, prepare=stages, train=tuned)
    for k in run.stage("clone") if stages else ():
        run.log(clone(config, learner, chunks, cloning, k))
        if k == epochs - 1:
            run.save_policy("clone", policy)
    for k in run.stage("finetune"):
        collector.restart_at_boundary(run)
        metrics = finetune(config, learner, collector, run.streams, tuning, ready, k)
        run.log(metrics, collector.seconds())
