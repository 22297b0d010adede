"""A conditional VAE of actions, for S seeds at once: what BCQ and its heirs know the data by.

| symbol | shape | meaning |
|---|---|---|
| z | [S, B, 2 A] | latent: twice as many dimensions as actions have |
| mean, log_std | [S, B, 2 A] | of the encoder's Gaussian q(z | s, a) |
| u | [S, B, A] | the decoder's action, within the action box |
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rlsuite.core.actors import BoundedActor, dense, initial
from rlsuite.core.layers import Layout, mlp, mlp_shapes


class ActionVAE:
    """Encoder q(z | s, a) and decoder u(s, z); parameters [S, P] live with the caller."""

    def __init__(self, policy: BoundedActor, obs_size: int, hidden: int) -> None:
        actions, self.latent = policy.action_size, 2 * policy.action_size
        self.policy = policy  # for the action box
        encoder = mlp_shapes("encoder", (obs_size + actions, hidden, hidden, 2 * self.latent))
        decoder = mlp_shapes("decoder", (obs_size + self.latent, hidden, hidden, actions))
        self.layout = Layout(encoder | decoder)

    def initial(self, rngs: Sequence[np.random.Generator]) -> Tensor:
        """Fresh parameters [S, P], as torch.nn.Linear starts."""
        return initial(self.layout, rngs)

    def rebuild(self, theta: Tensor, obs, action, noise) -> tuple[Tensor, Tensor, Tensor]:
        """(u, mean, log_std) from standard normal `noise` [S, B, 2 A]."""
        weights = dense(self.layout, theta)
        heads = mlp(weights, "encoder", torch.cat((obs, action), -1), 3, "relu")
        mean, log_std = heads.chunk(2, -1)
        log_std = log_std.clamp(-4, 15)
        latent = mean + log_std.exp() * noise
        return self._decoded(weights, obs, latent), mean, log_std

    def decode(self, theta: Tensor, obs: Tensor, latent: Tensor) -> Tensor:
        """u at a latent [S, B, 2 A], such as a sample of the prior."""
        return self._decoded(dense(self.layout, theta), obs, latent)

    def errors(self, theta: Tensor, obs, action, noise) -> tuple[Tensor, Tensor]:
        """(u - a)^2 and KL(q || N(0, 1)), each the mean of its dimensions: [S, B] both."""
        u, mean, log_std = self.rebuild(theta, obs, action, noise)
        return (u - action).square().mean(-1), kl_to_prior(mean, log_std).mean(-1)

    def _decoded(self, weights: dict[str, Tensor], obs: Tensor, latent: Tensor) -> Tensor:
        output = mlp(weights, "decoder", torch.cat((obs, latent), -1), 3, "relu")
        return self.policy.centre + self.policy.half_width * torch.tanh(output)


def kl_to_prior(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(q || N(0, 1)) of each latent dimension, [S, B, 2 A]."""
    return -0.5 * (1 + 2 * log_std - mean.square() - (2 * log_std).exp())
