"""The dynamics ensemble: its members in plain torch, its two losses, and what a run keeps of it."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal
from torch.nn.functional import softplus
from torch.nn.utils import spectral_norm

from rlsuite.algorithms.offline.csve import Config
from rlsuite.core.buffers import TransitionBatch
from rlsuite.core.dynamics import DYNAMICS_FILE, Draw, Dynamics, Ensemble, model_error, model_step
from rlsuite.datasets.transitions import Transitions

OBS, ACTIONS, HIDDEN, MEMBERS = 3, 2, (8, 6), 3


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


def ensemble(**changes) -> Ensemble:
    return Ensemble(OBS, ACTIONS, HIDDEN, MEMBERS, **changes)


def batch_of(rows: int, seed: int = 0) -> TransitionBatch:
    obs, next_obs = normal(2, 1, rows, OBS, seed=seed)
    action, reward = normal(1, rows, ACTIONS, seed=seed + 1), normal(1, rows, seed=seed + 2)
    return TransitionBatch(obs, action, reward, next_obs, torch.zeros(1, rows))


class PlainMember(nn.Module):
    """Section 2c of the sheet: one member."""

    def __init__(self, layout, theta: torch.Tensor, direction: torch.Tensor | None = None) -> None:
        super().__init__()
        views = {name: view[0].clone() for name, view in layout.views(theta[None]).items()}

        def layer(name):
            linear = nn.Linear(*reversed(views[f"{name}.weight"].shape))
            linear.weight.data, linear.bias.data = views[f"{name}.weight"], views[f"{name}.bias"][0]
            return linear

        self.hidden = nn.ModuleList(layer(f"model.{i}") for i in range(len(HIDDEN)))
        self.mean, self.log_std = layer("mean"), layer("log_std")
        if direction is not None:
            self.mean = spectral_norm(self.mean)
            self.mean.weight_u.copy_(direction)  # as after the step that it begins with
        self.highest, self.lowest = (nn.Parameter(views[name][0]) for name in ("highest", "lowest"))

    def forward(self, obs, action):
        x = torch.cat([obs, action], 1)
        for layer in self.hidden:
            x = layer(x)
            x = x * torch.sigmoid(x)  # swish
        log_std = self.highest - softplus(self.highest - self.log_std(x))
        return self.mean(x), self.lowest + softplus(log_std - self.lowest)

    def loss(self, batch: TransitionBatch, mask, inverse_std: bool):
        obs, action, reward, next_obs, _ = (x[0] for x in batch)
        mean, log_std = self(obs, action)
        error = torch.cat([obs + mean[:, :-1] - next_obs, (mean[:, -1] - reward)[:, None]], 1)
        bounds = 0.01 * (self.highest.sum() - self.lowest.sum())
        if inverse_std:
            inverse = torch.exp(-log_std)
            rows = (error[:, :-1] ** 2 * inverse[:, :-1]).mean(1) + error[:, -1] ** 2 * inverse[
                :, -1
            ]
            rows = rows + log_std.sum(1)
        else:
            target = torch.cat([next_obs - obs, reward[:, None]], 1)
            rows = -Normal(mean, log_std.exp()).log_prob(target).sum(1)
            rows = rows - 0.5 * np.log(2 * np.pi) * error.shape[1]
        return ((rows + bounds) * mask).mean()


@pytest.mark.parametrize("inverse_std", [False, True])
@pytest.mark.parametrize("spectral", [False, True])
def test_steps_are_those_of_plain_members_and_torchs_adam_with_decay(inverse_std, spectral):
    models = ensemble()
    fit = models.initial([np.random.default_rng(0)])
    size = models.layout.size
    plain = [
        PlainMember(models.layout, fit.net.theta[0, i * size : (i + 1) * size],
                    fit.left[0, i, 0] if spectral else None) for i in range(MEMBERS)
    ]  # fmt: skip
    adams = [torch.optim.Adam(x.parameters(), 2**-8, weight_decay=2.5e-5) for x in plain]
    step = partial(model_step, models, lr=2**-8, inverse_std=inverse_std, spectral=spectral)
    for k in range(4):
        batch, mask = batch_of(20, 10 * k), (normal(1, MEMBERS, 20, seed=k) > 0).float()
        fit, metrics = step(fit, batch, mask)
        losses = [x.loss(batch, mask[0, i], inverse_std) for i, x in enumerate(plain)]
        torch.testing.assert_close(
            metrics["model_loss"][0], sum(losses).detach(), rtol=1e-4, atol=1e-5
        )
        for loss, adam in zip(losses, adams, strict=True):
            adam.zero_grad()
            loss.backward()
            adam.step()
    for i, member in enumerate(plain):
        views = models.layout.views(fit.net.theta[:, i * size : (i + 1) * size])
        weight = member.mean.weight_orig if spectral else member.mean.weight
        pairs = [(views["mean.weight"][0], weight), (views["highest"][0, 0], member.highest)]
        pairs += [(views["model.0.weight"][0], member.hidden[0].weight)]
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs.detach(), rtol=1e-3, atol=1e-4)


def test_the_two_losses_by_hand():
    # errors (2, 0, 1), log sigma (0, 0, log 2): 0.5 * (4 + 0 + 1/4) + log 2
    error, log_std = torch.tensor([[[2.0, 0, 1]]]), torch.tensor([[[0, 0, np.log(2)]]])
    likelihood = model_error(error, log_std, False)
    torch.testing.assert_close(likelihood.item(), 2.125 + np.log(2))
    # (4 + 0)/2 over sigma 1, the reward's 1 over sigma 2: 2 + 0.5 + log 2
    torch.testing.assert_close(model_error(error, log_std, True).item(), 2.5 + np.log(2))


def test_a_prediction_is_a_sample_of_the_member_that_was_drawn():
    models = ensemble()
    theta = models.initial([np.random.default_rng(0), np.random.default_rng(1)]).net.theta
    obs, action = normal(2, 5, OBS), normal(2, 5, ACTIONS)
    mean, log_std = models.statistics(theta, obs, action)
    assert mean.shape == (2, MEMBERS, 5, OBS + 1)
    member = torch.tensor([[0, 1, 2, 0, 1], [2, 2, 1, 0, 0]])
    noise = normal(2, 5, OBS + 1, seed=3)
    there, reward = models.predict(theta, obs, action, Draw(member, noise, None))
    for seed in (0, 1):
        for k, m in enumerate(member[seed]):
            sample = mean[seed, m, k] + log_std[seed, m, k].exp() * noise[seed, k]
            torch.testing.assert_close(there[seed, k], obs[seed, k] + sample[:-1])
            torch.testing.assert_close(reward[seed, k], sample[-1])
    near = ensemble(bound=0.5).predict(theta, obs, action, Draw(member, noise, None))
    assert torch.equal(near[0], there.clamp(-0.5, 0.5)) and torch.equal(near[1], reward)


def test_log_sigma_starts_within_its_bounds():
    models = ensemble()
    theta = 100 * models.initial([np.random.default_rng(0)]).net.theta
    for view, value in (("highest", 2.0), ("lowest", -10.0)):
        models.layout.views(theta.view(-1, models.layout.size))[view][:] = value
    _, log_std = models.statistics(theta, 100 * normal(1, 9, OBS), normal(1, 9, ACTIONS))
    assert log_std.min() >= -10
    assert log_std.max() <= 2.0001


# ---------------------------------------------------------------------------------- within a run


def linear_data(count: int = 400, sha256: str = "5e7") -> Transitions:
    """s' = s + 0.5 a_1 in every dimension, r = a_2."""
    rng = np.random.default_rng(0)
    obs, action = rng.standard_normal((count, OBS)), rng.uniform(-1, 1, (count, ACTIONS))
    next_obs, last = obs + 0.5 * action[:, :1], np.ones(count, bool)
    fields = {"obs": obs, "action": action, "reward": action[:, 1], "next_obs": next_obs}
    fields = {name: x.astype(np.float32) for name, x in fields.items()}
    about = {
        "name": "made up",
        "sha256": sha256,
        "action_low": [-1.0] * 2,
        "action_high": [1.0] * 2,
    }
    return Transitions(**fields, terminated=last, truncated=~last, last=last, metadata=about)


SMALL = {"model_hidden": (32, 32), "members": 2, "model_batch_size": 64, "model_lr": 3e-3}


def dynamics_of(data=None, seeds=2, **changes) -> Dynamics:
    return Dynamics(data or linear_data(), ACTIONS, Config(**SMALL | changes), seeds)


@pytest.mark.parametrize("changes", [{}, {"inverse_std": True, "spectral_norm": True}])
def test_models_learn_the_dynamics(changes):
    models = dynamics_of(**changes)
    before = models.train(1)["model_error"]
    metrics = models.train(400)
    assert metrics["model_error"].shape == (2,)
    assert (metrics["model_error"] < 0.1 * before).all()


def test_what_is_fitted_is_the_same_whatever_the_seeds_and_a_resume_changes_nothing():
    one, many = dynamics_of(seeds=1, spectral_norm=True), dynamics_of(seeds=5, spectral_norm=True)
    one.train(6)
    many.train(3)
    saved = {k: v.clone() if torch.is_tensor(v) else v for k, v in many.state_dict().items()}
    other = dynamics_of(seeds=5, spectral_norm=True)
    other.train(1)
    other.load_state_dict(saved)
    other.train(3)
    assert other.theta().shape[0] == 5
    assert torch.equal(other.theta()[4:], one.theta())


def test_the_mean_heads_have_spectral_norm_one_when_they_are_used():
    models = dynamics_of(spectral_norm=True)
    models.train(50)
    heads = models.ensemble.layout.views(models.fitted().view(2, -1))["mean.weight"]
    for head in heads:
        assert torch.linalg.matrix_norm(head, 2).item() == pytest.approx(1, abs=0.02)
    raw = models.ensemble.layout.views(models.fit.net.theta.view(2, -1))["mean.weight"]
    assert not torch.allclose(raw, heads)


def test_another_runs_models_are_used_as_they_are_or_refused(tmp_path):
    rules = {"spectral_norm": True}
    first = dynamics_of(**rules)
    first.train(5)
    first.save(tmp_path)
    assert (tmp_path / DYNAMICS_FILE).exists()
    again = dynamics_of(dynamics=str(tmp_path), seeds=3, **rules)
    assert torch.equal(again.theta(), first.fitted().repeat(3, 1))
    source = {"dynamics": str(tmp_path)}
    with pytest.raises(ValueError, match="was fitted with spectral_norm True, not False"):
        dynamics_of(**source)
    with pytest.raises(ValueError, match="was fitted with data 5e7, not 0ff"):
        dynamics_of(linear_data(sha256="0ff"), **source, **rules)
    with pytest.raises(ValueError, match=r"cannot be read .*; name a run folder that has it"):
        dynamics_of(dynamics=str(tmp_path / "nowhere"), **rules)
    with pytest.raises(ValueError, match=r"member.0.model.0.weight is \[1, 32, 5\], not"):
        dynamics_of(**source, **rules, model_hidden=(16, 32))


def test_too_few_transitions_are_refused_before_any_work():
    message = "made up has 40 transitions, too few for models that take 64 a step: name a larger"
    with pytest.raises(ValueError, match=message):
        dynamics_of(linear_data(40))
    assert dataclasses.replace(Config(**SMALL), model_batch_size=40)
    dynamics_of(linear_data(40), model_batch_size=40)
