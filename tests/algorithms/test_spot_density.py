"""SPOT's conditional VAE: the bound that it is, its fit against plain PyTorch, its reuse."""

import dataclasses
import math
from functools import partial

import pytest
import torch
from offline_setting import (
    ACTIONS,
    HIGH,
    LOW,
    OBS,
    MemoryRun,
    as_in_a_run,
    batch_of,
    draw,
    flat,
    logged,
    normals,
    tensors,
)
from spot_setting import PlainDensity, setting
from torch.distributions import Normal, kl_divergence

from rlsuite.algorithms.offline import spot
from rlsuite.algorithms.offline.spot import (
    Config,
    density_error,
    density_step,
    train,
)
from rlsuite.core.buffers import TransitionBatch, chunks
from rlsuite.core.optim import Net


@pytest.fixture(autouse=True)
def one_thread():
    with as_in_a_run():
        yield


def gaussian(mean: torch.Tensor, log_std: torch.Tensor) -> Normal:
    return Normal(mean, log_std.exp())


STANDARD = Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)


def elbo(error: torch.Tensor, beta: float, actions: int) -> torch.Tensor:
    """What l(s, a) says of log p(a|s), solved for from the relation of section 2a."""
    return -(error + beta / 4 * math.log(math.pi * beta / 2)) * 2 * actions / beta


# --------------------------------------------------------------------- invariants of section 6


@pytest.mark.parametrize("actions", [1, 3])
@pytest.mark.parametrize("beta", [0.5, 0.1, 2.0])
def test_6_1_density_error_is_the_scaled_elbo(actions, beta):
    action, u = draw(1, 2, 2, 50, actions)
    mean, log_std = draw(2, 2, 2, 50, 2 * actions)
    likelihood = Normal(u, math.sqrt(beta / 4)).log_prob(action).sum(-1)
    bound = likelihood - kl_divergence(gaussian(mean, log_std), STANDARD).sum(-1)
    expected = beta / (2 * actions) * -bound - beta / 4 * math.log(math.pi * beta / 2)
    error = density_error(action, u, mean, log_std, beta)
    assert error.shape == (2, 50)
    torch.testing.assert_close(error, expected, rtol=1e-12, atol=1e-12)


def toy(count: int):
    """z ~ N(0, 1)^2 and a|z ~ N(w z_1 + b, beta/4): log p(a), the decoder, the exact posterior.

    Section 6.2. There is no importance-weighted bound here, only the ELBO, and its KL is taken in
    closed form. So what is equal to log p for any sample is the ELBO with the sampled log ratio in
    the KL's place; with the KL itself it is equal in expectation. The decoder is linear in z, the
    squared error quadratic: xi = -1 and 1 have the first moments of N(0, 1), and their mean is that
    expectation exactly.
    """
    beta, w, b = 0.5, 0.8, 0.3
    action = draw(3, 1, count, 1)
    marginal = Normal(torch.full_like(action, b), math.sqrt(w**2 + beta / 4))
    log_p = marginal.log_prob(action)[..., 0]
    variance = 1 / (1 + w**2 / (beta / 4))
    mean = torch.cat([variance * w * (action - b) / (beta / 4), torch.zeros_like(action)], -1)
    log_std = torch.tensor([0.5 * math.log(variance), 0.0], dtype=torch.float64).expand_as(mean)
    return beta, action, log_p, lambda z: w * z[..., :1] + b, mean, log_std


def test_6_2_with_the_exact_posterior_the_elbo_is_log_p():
    beta, action, log_p, decode, mean, log_std = toy(100)
    posterior, in_expectation = gaussian(mean, log_std), 0.0
    for xi in (draw(4, 1, 100, 2), 3 * draw(5, 1, 100, 2)):
        z = mean + log_std.exp() * xi
        bound = elbo(density_error(action, decode(z), mean, log_std, beta), beta, 1)
        sampled_ratio = (posterior.log_prob(z) - STANDARD.log_prob(z)).sum(-1)
        bound = bound + kl_divergence(posterior, STANDARD).sum(-1) - sampled_ratio
        torch.testing.assert_close(bound, log_p, rtol=0, atol=1e-10)
    for xi in (-1, 1):
        z = mean + log_std.exp() * xi
        error = density_error(action, decode(z), mean, log_std, beta)
        in_expectation = in_expectation + elbo(error, beta, 1) / 2
    torch.testing.assert_close(in_expectation, log_p, rtol=0, atol=1e-10)


def test_6_2_with_another_encoder_the_elbo_is_less_by_the_kl_to_the_posterior():
    beta, action, log_p, decode, mean, log_std = toy(100)
    others = mean + draw(6, *mean.shape), log_std + 0.5 * draw(7, *mean.shape)
    bound = 0.0
    for xi in (-1, 1):
        z = others[0] + others[1].exp() * xi
        bound = bound + elbo(density_error(action, decode(z), *others, beta), beta, 1) / 2
    gap = kl_divergence(gaussian(*others), gaussian(mean, log_std)).sum(-1)
    torch.testing.assert_close(bound, log_p - gap, rtol=0, atol=1e-10)
    assert (bound < log_p).all()


def test_6_7_the_kl_is_zero_at_the_prior_alone():
    action, zero = torch.full((1, 1, 2), 0.7), torch.zeros(1, 1, 4)
    assert density_error(action, action, zero, zero, 0.5).item() == 0
    # One of four means 0.2, or one log std 0.1: 0.5 * 0.04/2 / 4 = 0.0025, and
    # 0.5 * -(1 + 0.2 - e^0.2)/2 / 4 = 0.00133767
    one = torch.tensor([1.0, 0, 0, 0]).view(1, 1, 4)
    for mean, log_std, expected in ((0.2, 0, 0.0025), (0, 0.1, 0.00133767), (0, -0.1, 0.00117067)):
        error = density_error(action, action, mean * one, log_std * one, 0.5)
        torch.testing.assert_close(error, torch.tensor([[expected]]), rtol=1e-4, atol=0)


def test_6_8_log_std_is_bounded_and_everything_stays_finite():
    s = setting(dtype=torch.float32)
    obs, action = 1e4 * s.batch.obs, s.batch.action
    theta = 50 * s.fitted
    noise = normals((0, 1), obs.shape[1], 2 * ACTIONS)
    rebuilt, mean, log_std = s.density.rebuild(theta, obs, action, noise)
    assert (log_std.min(), log_std.max()) == (-4, 15)
    for i, (low, high) in enumerate(zip(LOW, HIGH, strict=True)):
        assert (rebuilt[..., i].min(), rebuilt[..., i].max()) == (low, high)
    assert density_error(action, rebuilt, mean, log_std, 0.5).isfinite().all()


# ------------------------------------------------------------------------------ traps, section 4


def test_4_2_means_over_dimensions_not_sums():
    # (u - a)^2 = 1 and 4: mean 2.5. KL of mean (2, 0, 0, 0): 2, mean 0.5, times beta 0.5
    action, rebuilt = torch.zeros(1, 1, 2), torch.tensor([[[1.0, -2.0]]])
    mean = torch.tensor([[[2.0, 0, 0, 0]]])
    error = density_error(action, rebuilt, mean, torch.zeros(1, 1, 4), 0.5)
    torch.testing.assert_close(error, torch.tensor([[2.75]]))


# --------------------------------------------------------------------------------- fitting it


def test_steps_are_those_of_one_seed_in_plain_torch():
    s = setting(density_lr=2**-8)
    plain = [PlainDensity(s.density, s.fitted[seed]) for seed in (0, 1)]
    adams = [torch.optim.Adam(x.parameters(), 2**-8) for x in plain]
    net = Net.of(s.fitted)
    for k in range(5):
        batch = batch_of((10 * k, 10 * k + 1), 32, torch.float64)
        noise = normals((20 * k, 20 * k + 1), 32, 2 * ACTIONS, dtype=torch.float64)
        net, metrics = density_step(s.density, s.config, net, batch, noise)
        for seed in (0, 1):
            error = plain[seed].loss(batch.obs[seed], batch.action[seed], noise[seed], 0.5).mean()
            adams[seed].zero_grad()
            error.backward()
            adams[seed].step()
            torch.testing.assert_close(metrics["density_error"][seed], error.detach())
    for seed in (0, 1):
        torch.testing.assert_close(net.theta[seed], flat(plain[seed]), rtol=0, atol=1e-9)
    assert (net.theta - s.fitted).abs().max() > 0.01


@pytest.mark.parametrize(("width", "hidden"), [(32, 32), (256, 256), (256, 750)])
def test_a_seed_is_fitted_to_the_same_bits_alone_and_in_company(width, hidden):
    changes = {"density_hidden": hidden, "rows": width, "dtype": torch.float32}
    found = []
    with as_in_a_run(width):
        for seeds in ((3,), range(5)):
            s = setting(seeds, **changes)
            step = partial(density_step, s.density, s.config)
            net = Net.of(s.fitted)
            part, noise = chunks(s.batch, 2)[0], normals(seeds, width, 2 * ACTIONS)
            for _ in range(2):
                net, _ = step(net, part, noise)
            found.append(tensors(net))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a[0], b[3])
    assert not torch.equal(found[1][0][2], found[1][0][3])


# ------------------------------------------------------------------------------- within a run

SMALL = {"density_steps": 8, "gradient_steps": 8, "steps_per_iteration": 4, "batch_size": 16}
SMALL |= {"hidden": (16, 8), "density_hidden": 12}
DATA = logged([10] * 6)


def run_of(folder, seeds=(0, 1), data=DATA, **changes) -> MemoryRun:
    folder.mkdir(exist_ok=True)
    run = MemoryRun(data, seeds, folder)
    train(Config(**SMALL | changes), run)
    return run


def test_6_5_the_density_never_moves_once_it_is_fitted(tmp_path):
    run = run_of(tmp_path)
    fitted = [learner.density.theta for learner in run.states]
    assert len(fitted) == 5  # before the run, after 2 iterations of fitting and 2 of learning
    moved = [not torch.equal(a, b) for a, b in zip(fitted, fitted[1:], strict=False)]
    assert moved == [True, True, False, False]
    assert [learner.density.adam.steps[0].item() for learner in run.states] == [0, 4, 8, 8, 8]
    # ... and until then nothing else moves
    actors = [learner.state.actor.theta for learner in run.states]
    assert [not torch.equal(a, b) for a, b in zip(actors, actors[1:], strict=False)] == [
        *(False, False, True, True)
    ]
    assert [set(row) for row in run.rows[:2]] == [{"density_error"}] * 2
    assert set(run.rows[2]) == {"critic_loss", "value", "policy_loss", "density_error"}


def test_4_3_the_density_is_fitted_to_standardised_observations(tmp_path, monkeypatch):
    seen, step = [], spot.density_step

    def recorded(density, config, net, batch: TransitionBatch, noise):
        seen.append((batch, noise))
        return step(density, config, net, batch, noise)

    monkeypatch.setattr(spot, "density_step", recorded)
    run_of(tmp_path, density_steps=80, gradient_steps=4)
    obs, action = (torch.cat([getattr(b, k) for b, _ in seen], 1) for k in ("obs", "action"))
    # 1280 draws of 60 rows: the mean of each is that of the data to 1/sqrt(1280) = 0.028
    assert obs.mean(1).abs().max() < 5 * 0.028
    assert (obs.std(1) - 1).abs().max() < 0.1
    assert action[..., 0].min() < -1.5
    noise = torch.cat([noise for _, noise in seen], 1)
    assert noise.shape == (2, 80 * 16, 2 * ACTIONS)
    assert len(noise.unique()) > 0.999 * noise.numel()


def test_another_runs_density_is_used_as_it_is(tmp_path):
    first = run_of(tmp_path / "first")
    fitted = first.states[-1].density.theta
    assert (tmp_path / "first" / "density.safetensors").exists()
    again = run_of(tmp_path / "again", density=str(tmp_path / "first"), support_weight=0.3)
    assert len(again.rows) == 2  # no iteration of fitting
    assert all(torch.equal(learner.density.theta, fitted) for learner in again.states)
    assert not (tmp_path / "again" / "density.safetensors").exists()
    one = run_of(tmp_path / "one", (1,), density=str(tmp_path / "first"))
    assert torch.equal(one.states[0].density.theta, fitted[1:])
    # Of a run of one seed, every seed takes it
    alone = run_of(tmp_path / "alone", (7,)).states[-1].density.theta
    three = run_of(tmp_path / "three", (0, 1, 2), density=str(tmp_path / "alone"))
    assert torch.equal(three.states[-1].density.theta, alone.expand(3, -1))


def test_a_density_of_other_data_seeds_or_size_is_refused(tmp_path):
    run_of(tmp_path / "first")
    source = {"density": str(tmp_path / "first")}
    other = dataclasses.replace(DATA, metadata=DATA.metadata | {"sha256": "0ff"})
    with pytest.raises(ValueError, match="was fitted with data 5e7, not 0ff"):
        run_of(tmp_path / "a", data=other, **source)
    with pytest.raises(ValueError, match="was fitted with normalize_obs True, not False"):
        run_of(tmp_path / "b", normalize_obs=False, **source)
    with pytest.raises(ValueError, match=r"has seeds \[0, 1\], not \[2\]; train those, too"):
        run_of(tmp_path / "c", (0, 2), **source)
    with pytest.raises(ValueError, match=r"is \[2, 12, 5\], not \[2, 13, 5\]"):
        run_of(tmp_path / "d", density_hidden=13, **source)
    with pytest.raises(ValueError, match=r"nowhere.* cannot be read .* name a run folder"):
        run_of(tmp_path / "e", density=str(tmp_path / "nowhere"))


def test_the_observations_count_in_the_density():
    s = setting()
    noise = normals((0, 1), 64, 2 * ACTIONS, dtype=torch.float64)
    theirs = s.density.rebuild(s.fitted, s.batch.obs, s.batch.action, noise)
    for seed in (0, 1):
        plain = PlainDensity(s.density, s.fitted[seed])
        expected = plain.loss(s.batch.obs[seed], s.batch.action[seed], noise[seed], 0.5)
        ours = density_error(s.batch.action, *theirs, 0.5)[seed]
        torch.testing.assert_close(ours, expected.detach())
    shifted = s.density.rebuild(s.fitted, s.batch.obs + 1, s.batch.action, noise)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(theirs, shifted, strict=True))
    assert s.density.layout.shapes["encoder.0.weight"] == (12, OBS + ACTIONS)
    assert s.density.layout.shapes["decoder.0.weight"] == (12, OBS + 2 * ACTIONS)
