"""The cosine schedule and its two samplers, against published tables and against each other."""

import importlib.util

import pytest
import torch

from rlsuite.core.diffusion import cosine_abar, ddim, ddpm, denoised_mean, noised

# K = 20, computed with the formula in float64: t, abar, std, c1, c2
TABLE = [
    (0, 0.992007, 0.0, 1.0, 0.0),
    (1, 0.972093, 0.07583, 0.71647, 0.28351),
    (2, 0.940739, 0.12324, 0.53662, 0.46326),
    (5, 0.786911, 0.22571, 0.30646, 0.69201),
    (10, 0.416312, 0.36898, 0.18902, 0.79619),
    (15, 0.094046, 0.57344, 0.14596, 0.76262),
    (19, 0.000006, 0.99647, 0.07777, 0.03143),
]


@pytest.mark.parametrize(("t", "abar", "std", "c1", "c2"), TABLE)
def test_twenty_steps_are_the_published_table(t, abar, std, c1, c2) -> None:
    schedule = ddpm(20)
    found = [schedule.abar[t], schedule.std[t], schedule.c1[t], schedule.c2[t]]
    assert [x.item() for x in found] == pytest.approx([abar, std, c1, c2], abs=1e-5)


def test_ten_steps_have_the_published_noise() -> None:
    expected = [0, 0.14422, 0.24317, 0.32727, 0.40652, 0.48779, 0.57810, 0.68727, 0.83097, 0.98740]
    assert ddpm(10).std.tolist() == pytest.approx(expected, abs=1e-5)


def test_abar_falls_and_the_last_step_is_x0_itself() -> None:
    schedule = ddpm(20)
    assert (schedule.abar.diff() < 0).all()
    # no noise at t = 0, and the mean is x0 alone: where eps is 0, clip(x / sqrt abar)
    assert (schedule.std[0], schedule.c1[0], schedule.c2[0]) == (0, 1, 0)
    x = torch.tensor([[[0.3], [-5.0]]])
    mean = denoised_mean(schedule, x, torch.zeros_like(x), 0, 1.0)
    # 0.3 / sqrt(0.992007) = 0.301206; -5 / ... is beyond the clip
    assert mean.flatten().tolist() == pytest.approx([0.301206, -1.0], abs=1e-6)


def test_five_of_a_hundred_steps_are_the_published_ones() -> None:
    schedule = ddim(100, 5, eta=1.0)
    assert schedule.time.tolist() == [0, 20, 40, 60, 80]
    expected = [0.99937, 0.88910, 0.63252, 0.32612, 0.08515]
    assert schedule.abar.tolist() == pytest.approx(expected, abs=1e-5)
    expected = [0, 0.02506, 0.29511, 0.51397, 0.73775]
    # the second is the least of four digits: 1 - abar / abar' cancels
    assert schedule.std.tolist() == pytest.approx(expected, abs=2e-5)
    assert ddim(100, 5, eta=0.0).std.tolist() == [0] * 5


def test_the_true_noise_gives_back_the_clean_sample() -> None:
    schedule, generator = ddpm(20), torch.Generator().manual_seed(0)
    clean = torch.rand(1, 19, 3, generator=generator) * 1.8 - 0.9
    noise = torch.randn(1, 19, 3, generator=generator)
    t = torch.arange(19)[None]  # at t = 19, sqrt(1 / abar) is 400: float32 has no digits left
    x = noised(schedule, clean, noise, t)
    # x0 is the clean sample, so the mean is c1 clean + c2 x
    mean = denoised_mean(schedule, x, noise, t, 1.0)
    expected = schedule.c1[t, None] * clean + schedule.c2[t, None] * x
    torch.testing.assert_close(mean, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_ddim_step_is_its_formula_with_the_noise_of_the_clipped_x0(eta) -> None:
    schedule, generator = ddim(100, 5, eta), torch.Generator().manual_seed(1)
    x, eps = torch.randn(2, 1, 5, 2, generator=generator).unbind(0)
    t = torch.arange(5)[None]
    mean = denoised_mean(schedule, x, eps, t, 0.7)
    abar = cosine_abar(100)[torch.arange(5) * 20][:, None]
    before = torch.cat((torch.ones(1, 1, dtype=torch.float64), abar[:-1]))
    x0 = ((1 / abar).sqrt() * x - (1 / abar - 1).sqrt() * eps).clamp(-0.7, 0.7)
    again = (x - abar.sqrt() * x0) / (1 - abar).sqrt()
    std = eta * ((1 - before) / (1 - abar) * (1 - abar / before)).sqrt()
    expected = before.sqrt() * x0 + (1 - before - std**2).clamp(min=0).sqrt() * again
    torch.testing.assert_close(mean.double(), expected, atol=1e-5, rtol=1e-5)


def test_all_steps_of_ddim_with_eta_1_are_ddpm() -> None:
    full, sparse = ddpm(20), ddim(20, 20, eta=1.0)
    for name in ("abar", "c1", "c2", "std"):
        a, b = getattr(full, name), getattr(sparse, name)
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_impossible_numbers_of_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="denoising steps are 0; use 1 or more"):
        ddpm(0)
    with pytest.raises(ValueError, match="ddim steps are 21; use 1 to the 20"):
        ddim(20, 21, 1.0)


@pytest.mark.skipif(not importlib.util.find_spec("diffusers"), reason="diffusers is not installed")
def test_the_schedule_and_a_step_are_those_of_diffusers() -> None:
    from diffusers import DDPMScheduler

    peer = DDPMScheduler(20, beta_schedule="squaredcos_cap_v2", clip_sample_range=1.0)
    schedule, generator = ddpm(20), torch.Generator().manual_seed(2)
    torch.testing.assert_close(peer.alphas_cumprod, schedule.abar, atol=1e-6, rtol=0)
    x, eps = torch.randn(2, 1, 4, 3, generator=generator).unbind(0)
    for t in range(20):
        same = torch.Generator().manual_seed(t)
        theirs = peer.step(eps, t, x, generator=same).prev_sample
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(t))
        ours = denoised_mean(schedule, x, eps, t, 1.0) + schedule.std[t] * noise
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
