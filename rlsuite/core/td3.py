"""What TD3 (Fujimoto et al. 2018) and the papers that build on it do alike."""

from typing import NamedTuple

from torch import Tensor

from rlsuite.core.actors import BoundedActor
from rlsuite.core.optim import Net


class State(NamedTuple):
    """All that a step changes, one row per seed."""

    actor: Net
    critic: Net  # both critics
    actor_target: Tensor  # [S, P_actor]
    critic_target: Tensor  # [S, 2 P_critic]

    @staticmethod
    def of(actor: Tensor, critic: Tensor) -> "State":
        """Networks that have taken no step; the targets are copies of them."""
        actor_target, critic_target = actor.detach().clone(), critic.clone()
        return State(Net.of(actor), Net.of(critic), actor_target, critic_target)


def target_action(
    policy: BoundedActor, theta: Tensor, obs: Tensor, noise: Tensor, config, dropout=None
) -> Tensor:
    """The policy's action plus clipped noise, within its bounds: [S, B, O] -> [S, B, A].

    `noise` [S, B, A] is standard normal; `config` has policy_noise and noise_clip, in half widths.
    """
    noise = config.policy_noise * noise
    noise = noise.clamp(-config.noise_clip, config.noise_clip)
    action = policy.mean(theta, obs, dropout)
    return policy.clip_action(action + policy.half_width * noise)


def mean_size(value: Tensor) -> Tensor:
    """mean |Q| of a batch, a number and no function; at least 1e-8. [S, B] -> [S]."""
    return value.abs().mean(1).detach().clamp(min=1e-8)
