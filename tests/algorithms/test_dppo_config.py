"""What DPPO refuses, in one line and before any work; its presets as published."""

import pytest

from rlsuite.algorithms.diffusion.dppo import PRESETS, Config
from rlsuite.cli.main import main

PENDULUM = "InvertedPendulum-v4"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuned_steps": 0}, "tuned_steps is 0; it must lie in [1, 20]"),
        ({"tuned_steps": 21}, "tuned_steps is 21; it must lie in [1, 20]"),
        ({"ddim_steps": 5}, "tuned_steps is 10; it must lie in [1, 5]"),
        ({"ddim_steps": 21}, "ddim_steps is 21; it must lie in [0, 20]"),
        ({"acting": 5}, "acting is 5; it must lie in [1, 4]"),
        ({"chunk": 0}, "chunk is 0; it must be 1 or more"),
        # 40 x 500 decisions of 10 tuned steps
        ({"batch_size": 200_001}, "batch_size is 200001; it must lie in [2, 200000]"),
        ({"batch_size": 1}, "batch_size is 1; it must lie in [2, 200000]"),
        ({"env_steps": 79_999}, "env_steps is 79999; it must be 80000 or greater"),
        ({"clip_base": 0.02}, "clip_base is 0.02; it must lie in [0, 0.01]"),
        ({"hidden": (64, 64)}, "hidden is 64 64; use an odd number of equal widths"),
        ({"critic_hidden": (64, 32, 64)}, "critic_hidden is 64 32 64; use an odd number"),
        ({"policy": "flow"}, "policy 'flow' is unknown; use one of: diffusion, gaussian"),
        ({"activation": "tanh"}, "activation 'tanh' is unknown; use one of: relu, mish"),
        ({"average_unit": "step"}, "average_unit 'step' is unknown; use one of: batch, epoch"),
        ({"actor_lr": -1.0}, "actor_lr is -1.0"),
        ({"critic_lr": float("nan")}, "critic_lr is nan"),
        ({"time_dim": 2}, "time_dim is 2; it must be an even number from 4 on"),
        ({"time_dim": 17}, "time_dim is 17; it must be an even number"),
    ],
)
def test_impossible_settings_are_refused(changes, message) -> None:
    with pytest.raises(ValueError) as refusal:
        Config(**changes)
    assert message in str(refusal.value)


def refused(short_runs, **changes) -> str:
    with pytest.raises((ValueError, RuntimeError)) as refusal:
        short_runs.train("refused", "dppo", PENDULUM, **changes)
    assert "\n" not in str(refusal.value)
    assert not list((short_runs.root / "refused").glob("*.csv"))  # before any work
    return str(refusal.value)


def test_a_chunk_longer_than_every_episode_is_refused(short_runs) -> None:
    assert "chunk is 200, and no episode is so long; use at most" in refused(short_runs, chunk=200)


def test_cloning_without_data_is_refused_and_says_what_to_type(short_runs) -> None:
    text = refused(short_runs, dataset=None)
    assert "rlsuite train dppo --dataset NAME" in text and "--preset scratch" in text


def test_discrete_actions_are_refused(short_runs) -> None:
    with pytest.raises(ValueError, match="discrete actions"):
        short_runs.train("run", "dppo", "CartPole-v1", dataset=None, clone_epochs=0)


def test_a_clone_that_does_not_fit_is_refused(short_runs, finished_run, tmp_path) -> None:
    folder = str(finished_run("dppo", PENDULUM))
    assert "hidden [32, 32, 32], not [16, 16, 16]" in refused(
        short_runs, clone=folder, hidden=(16, 16, 16)
    )
    (tmp_path / "refused").rename(tmp_path / "first")
    assert "[7]; train those, too" in refused(short_runs, clone=folder, seeds=(7,))
    (tmp_path / "refused").rename(tmp_path / "second")
    assert "no readable policy" in refused(short_runs, clone=str(tmp_path))
    with pytest.raises(ValueError, match=r"is of InvertedPendulum-v4, not Hopper-v4"):
        short_runs.train("hopper", "dppo", "Hopper-v4", clone=folder, dataset=None)


def test_the_command_line_takes_data_or_a_task(capsys) -> None:
    assert main(["train", "dppo"]) == 2
    assert "which task? type: rlsuite train dppo --env" in capsys.readouterr().err


def test_the_presets_are_those_of_the_release_and_of_v06() -> None:
    def of(name, family="*"):
        table = PRESETS[name]
        return Config(**table["*"] | (table.get(family, {}) if family != "*" else {}))

    gym, former = of("gym"), of("gym-v0.6")
    # 900 iterations of 40 x 500 x 4 steps; 4 minibatches x 5 epochs
    assert (gym.iterations, gym.rollout_size, gym.declared.gradient_steps) == (900, 80_000, 18_000)
    assert (gym.clone_epochs, gym.average_unit, gym.average_every) == (200, "batch", 10)
    assert (former.clone_epochs, former.average_unit, former.average_every) == (3000, "epoch", 5)
    scratch = of("scratch", "Hopper")
    assert (scratch.chunk, scratch.tuned, scratch.clip, scratch.rollout_size) == (
        1,
        10,
        0.1,
        10_000,
    )
    assert (of("scratch-v0.6").batch_size, of("scratch-v0.6").denoising_discount) == (10_000, 0.99)
    kitchen = of("kitchen")
    assert (kitchen.num_steps, kitchen.condition, kitchen.activation) == (70, (128, 32), "mish")
    assert gym.declared.learning_rates == ("clone_lr", "clone_last_lr", "actor_lr", "critic_lr")
