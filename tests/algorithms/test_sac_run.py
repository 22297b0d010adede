"""Runs of SAC and off-policy MDPO: warm-up, counts of steps, and a resume, replay and all."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from off_policy_setting import PENDULUM, run_of, setting
from offline_setting import as_in_a_run, tensors

from rlsuite.algorithms.off_policy import mdpo_off, sac
from rlsuite.core import segments
from rlsuite.core.buffers import ReplayBuffer
from rlsuite.core.seed_random import SeedRandom
from rlsuite.runs import checkpoint
from rlsuite.runs import run as runs
from rlsuite.runs.steps import CudaGraphStep

MODULES = pytest.mark.parametrize("module", [sac, mdpo_off])
NAMES = pytest.mark.parametrize("name", ["sac", "mdpo_off"])
SMALL = {"hidden": (8,), "batch_size": 8, "steps_per_iteration": 16}


@pytest.fixture(autouse=True)
def one_thread():
    with as_in_a_run():
        yield


def trained(module, **changes):
    run = run_of()
    module.train(module.Config(**SMALL | changes), run)
    return run


# ------------------------------------------------------------------------------------- steps


@MODULES
def test_nothing_is_learned_during_the_warm_up_and_its_actions_are_uniform(module):
    run = trained(module, env_steps=512, warm_up=496)
    start, before, after = run.states[0], run.states[-2], run.states[-1]
    for old, new in zip(tensors(start.state), tensors(before.state), strict=True):
        assert torch.equal(old, new)
    assert torch.equal(start.policy.theta, before.policy.theta)
    assert not torch.equal(before.policy.theta, after.policy.theta)
    assert torch.equal(after.policy.theta, after.state.actor.theta)
    # of 32 iterations 31 only explore: they are logged, too, without metrics
    assert [bool(row) for row in run.rows] == [False] * 31 + [True]
    action = before.buffer.fields["action"][:, :496]
    # uniform on (-1, 1): mean 0 +- sqrt(1/3 / 992) = 0.018, mean square 1/3 +- 0.0095
    assert abs(action.mean()) < 5 * 0.018 and abs(action.square().mean() - 1 / 3) < 5 * 0.0095


@MODULES
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 32),
        ({"num_envs": 4}, 32),  # as many gradient steps as environments, after each step
        ({"updates_per_step": 0.25}, 8),
        ({"updates_per_step": 0.5, "num_envs": 4, "policy_delay": 4}, 16),
        ({"updates_per_step": 3.0, "policy_delay": 2}, 96),
    ],
)
def test_gradient_steps_per_environment_step(module, changes, expected):
    changes = {"policy_delay": 1} | changes
    run = trained(module, env_steps=48, warm_up=16, **changes)
    learner = run.states[-1]
    assert learner.buffer.added == 48
    assert learner.state.critic.adam.steps.flatten().tolist() == [expected] * 2
    assert learner.state.actor.adam.steps.flatten().tolist() == [expected] * 2


def test_gradient_steps_are_spread_over_the_steps(monkeypatch):
    """With 0.25 a step, one follows each fourth step; with 2, two follow each step."""
    seen = []
    draw = sac.draw

    def watched(config, learner):
        seen.append(learner.buffer.added)
        return draw(config, learner)

    monkeypatch.setattr(sac, "draw", watched)
    for ratio, expected in ((0.25, [4, 8, 12, 16]), (2.0, sorted([*range(1, 17)] * 2))):
        seen.clear()
        trained(sac, env_steps=16, warm_up=0, updates_per_step=ratio, policy_delay=1)
        assert seen == expected


@MODULES
def test_the_ring_is_no_larger_than_the_run(module):
    run = trained(module, env_steps=32, warm_up=16, capacity=10**15)
    assert run.states[0].buffer.capacity == 32


@NAMES
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_compiled_steps_equal_the_plain_ones(name, short_runs, compiler, capsys):
    ended = []
    sizes = {"hidden": (8,), "batch_size": 16, "env_steps": 192, "policy_delay": 1}
    for wish in ("off", "on"):
        folder = short_runs.train(wish, name, PENDULUM, compile=wish, **sizes)
        state = checkpoint.load(folder / "checkpoint", print)[1]
        ended.append(state["learner"]["state"]["critic"]["theta"])
    said = capsys.readouterr().err
    assert "compiling" in said and "not compiled" not in said
    torch.testing.assert_close(ended[1], ended[0], rtol=1e-3, atol=1e-4)


@MODULES
@pytest.mark.slow
def test_the_compiler_traces_the_whole_update_as_one_graph(module, compiler):
    """Without a break: no value is asked for on the way."""
    s = setting(module, dtype=torch.float32, policy_delay=2, hidden=(8,), rows=8)
    expected, _ = s.cycle(s.state, s.batch, s.noise)
    traced = torch.compile(s.cycle, backend="eager", fullgraph=True, dynamic=False)
    found, _ = traced(s.state, s.batch, s.noise)
    for one, other in zip(tensors(found), tensors(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_captured_update_draws_rows_that_came_after_the_capture():
    rng = SeedRandom([np.random.default_rng(0)], "cuda")
    buffer = ReplayBuffer(1, 1000, {"reward": ()}, rng)
    buffer.add(reward=np.ones((1, 1)))
    update = CudaGraphStep(
        lambda x, rows: x + rows.amax(), lambda: tuple(buffer.sample(500)), [rng]
    )
    zero = torch.zeros((), device="cuda")
    assert update(zero).item() == 1
    for number in range(2, 500):
        buffer.add(reward=np.full((1, 1), float(number)))
    assert update(zero).item() > 400


# ------------------------------------------------------------------------------------ resumes

# 8 iterations of 64 steps, 2 of them warm-up; a ring of 256 rows has wrapped after the fourth
SHORT = {"seeds": (0, 1), "checkpoints": 4, "evaluations": 2, "evaluation_episodes": 1}


def content(folder: Path) -> tuple[dict, list[bytes]]:
    """What the newest checkpoint holds, and the rows that its ring needs."""
    state = checkpoint.load(folder / "checkpoint", print)[1]["learner"]
    rows = segments.read_segments(state["buffer"], folder / "checkpoint" / "buffer")
    return state, [content for _, content in rows]


def assert_same(a: Path, b: Path) -> None:
    (one, one_rows), (other, other_rows) = content(a), content(b)
    assert one["buffer"] == other["buffer"] and one_rows == other_rows and one_rows
    left, right = nested(one["state"]), nested(other["state"])
    assert len(left) > 9 and all(torch.equal(x, y) for x, y in zip(left, right, strict=True))
    progress = [(f / "progress.csv").read_text().splitlines() for f in (a, b)]
    without_time = [[line.rsplit(",", 1)[0] for line in lines] for lines in progress]
    assert without_time[0] == without_time[1]
    weights = [(f / "policy" / "policy.safetensors").read_bytes() for f in (a, b)]
    assert weights[0] == weights[1]


def nested(state: dict) -> list[torch.Tensor]:
    return [
        x for part in state.values() for x in (nested(part) if isinstance(part, dict) else [part])
    ]


def broken_off(short_runs, name: str, logged: int, monkeypatch) -> Path:
    """A run that an interrupt ended once its log had so many iterations."""
    run = short_runs.create("broken", name, PENDULUM, **SHORT)
    log, count = run.log, []

    def counted(*args) -> None:
        log(*args)
        count.append(1)
        if len(count) == logged:
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "log", counted)
    with pytest.raises(KeyboardInterrupt):
        runs.execute(run)
    return run.folder


@pytest.fixture
def whole(short_runs):
    return lambda name: short_runs.train("whole", name, PENDULUM, **SHORT)


@NAMES
def test_a_resumed_run_ends_as_an_unbroken_one_also_after_the_ring_has_wrapped(
    name, short_runs, whole, monkeypatch
):
    unbroken = whole(name)
    # the fifth iteration ends at step 320 of a ring of 256, after a checkpoint
    broken = broken_off(short_runs, name, 5, monkeypatch)
    runs.execute(runs.reopen(broken))
    assert_same(unbroken, broken)
    kept = sorted(path.name for path in (broken / "checkpoint" / "buffer").iterdir())
    theirs = sorted(path.name for path in (unbroken / "checkpoint" / "buffer").iterdir())
    assert kept == theirs and all(name.endswith(".rows") for name in kept)


@pytest.mark.parametrize("damaged", ["checkpoint", "rows", "no rows"])
def test_a_damaged_end_is_refused_and_the_checkpoint_before_leads_to_the_same_end(
    damaged, whole, tmp_path, capsys
):
    unbroken = whole("sac")
    broken = shutil.copytree(unbroken, tmp_path / "damaged")
    (broken / "finished").unlink()
    pattern = "*.ckpt" if damaged == "checkpoint" else "buffer/*.rows"
    newest = sorted((broken / "checkpoint").glob(pattern))[-1]
    if damaged == "no rows":
        newest.unlink()
    else:
        newest.write_bytes(newest.read_bytes()[:-1])
    capsys.readouterr()
    runs.execute(runs.reopen(broken))
    said = capsys.readouterr().err.replace("\n", "")
    assert newest.name in said and "refused" in said and "resuming at step 384" in said
    assert_same(unbroken, broken)


def test_rows_that_two_checkpoints_need_are_needed_by_both(whole, tmp_path, capsys):
    unbroken = whole("sac")
    broken = shutil.copytree(unbroken, tmp_path / "damaged")
    (broken / "finished").unlink()
    oldest = sorted((broken / "checkpoint" / "buffer").glob("*.rows"))[-2]
    oldest.unlink()
    with pytest.raises(checkpoint.CheckpointError, match=r"every checkpoint in .* is damaged"):
        runs.execute(runs.reopen(broken))
    assert capsys.readouterr().err.count(oldest.name) >= 2


def test_a_full_disk_while_rows_are_written_is_one_line_and_the_run_can_go_on(
    short_runs, whole, monkeypatch
):
    unbroken = whole("sac")
    run = short_runs.create("broken", "sac", PENDULUM, **SHORT)
    monkeypatch.setattr(segments, "_write", once_full(segments._write, after=2))
    with pytest.raises(runs.RunError, match=r"No space left.*checkpoint at step 256 is intact"):
        runs.execute(run)
    monkeypatch.undo()
    runs.execute(runs.reopen(run.folder))
    assert_same(unbroken, run.folder)


def once_full(write, after: int):
    """`write`, for which the disk is full after so many calls."""
    calls = []

    def limited(*args):
        calls.append(1)
        if len(calls) > after:
            raise OSError(28, "No space left on device")
        return write(*args)

    return limited


def test_a_checkpoint_of_another_capacity_is_refused_in_one_line(short_runs, monkeypatch):
    broken = broken_off(short_runs, "sac", 5, monkeypatch)
    run = runs.reopen(broken)
    run.config = sac.Config(**vars(run.config) | {"capacity": 128})
    with pytest.raises(checkpoint.CheckpointError, match="capacity is 128, it was 256") as refusal:
        runs.execute(run)
    assert "\n" not in str(refusal.value)
