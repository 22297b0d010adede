"""What `describe` says of small sets, worked out by hand or by brute force."""

import itertools

import numpy as np
import pytest

from rlsuite.datasets.describe import EDGES, ROWS, describe, text
from rlsuite.datasets.transitions import DatasetError, Transitions, check


def record(lengths, ends, task="Hopper-v4", timeouts="kept", discrete=False, seed=0, **arrays):
    """Episodes of random numbers; `ends` has one letter each: t(erminated), c(ut), o(pen)."""
    n, rng = sum(lengths), np.random.default_rng(seed)
    last = np.zeros(n, bool)
    last[np.cumsum(lengths) - 1] = True
    flags = {letter: last.copy() for letter in "tc"}
    for letter, flag in flags.items():
        flag[last] = [end == letter for end in ends]
    action = rng.integers(0, 3, n) if discrete else rng.uniform(-1, 1, (n, 2))
    columns = {
        "obs": rng.standard_normal((n, 3)).astype(np.float32),
        "action": action if discrete else action.astype(np.float32),
        "reward": np.ones(n, np.float32),
        "next_obs": np.zeros((n, 3), np.float32),
    } | arrays
    box = {"action_low": None, "action_high": None}
    if not discrete:
        box = {"action_low": [-1.0, -1.0], "action_high": [1.0, 1.0]}
    about = {"name": "mine/set-v0", "task": task, "timeouts": timeouts, "source": "a test"} | box
    return check(
        Transitions(
            **columns, terminated=flags["t"], truncated=flags["c"], last=last, metadata=about
        )
    )


def test_episodes_returns_and_ends_by_hand():
    # Rewards 1 each, so returns are lengths: 1, 2, 3, 6.
    # Mean 3, variance (4 + 1 + 0 + 9) / 4 = 3.5.
    # Quartiles of four numbers lie at positions 0.75, 1.5, 2.25: 1.75, 2.5, 3.75.
    found = describe(record([1, 2, 3, 6], "ttco"))
    expected = {"mean": 3, "std": 3.5**0.5, "min": 1, "lower": 1.75, "median": 2.5}
    expected |= {"upper": 3.75, "max": 6}
    assert found["returns"] == pytest.approx(expected)
    assert found["lengths"] == pytest.approx(expected)
    assert (found["transitions"], found["episodes"]) == (12, 4)
    assert (found["terminated"], found["truncated"], found["open"]) == (2, 1, 1)
    assert (found["obs_size"], found["action_size"]) == (3, 2)


def test_the_score_is_that_of_complete_episodes():
    # Complete are 1, 2, 3: mean 2. Hopper: 100 (2 + 20.272305) / 3254.572305 = 0.684339
    found = describe(record([1, 2, 3, 6], "ttco"))["score"]
    assert found["score"] == pytest.approx(0.684339, abs=1e-6)
    assert found["tq"] == pytest.approx(0.00684339, abs=1e-8)
    assert found["reference"].startswith("D4RL's hopper")
    # Where rows at a time limit are dropped, an open end may be one: all four count, mean 3
    dropped = describe(record([1, 2, 3, 6], "ttoo", timeouts="dropped"))["score"]
    assert dropped["score"] == pytest.approx(100 * (3 + 20.272305) / 3254.572305)
    assert describe(record([2], "o"))["score"] is None
    assert describe(record([2], "t", task="Pendulum-v1"))["score"] is None


def test_tq_is_0_for_random_and_1_for_the_expert():
    for ret, tq in ((-20.272305, 0), (3234.3, 1)):
        data = record([1], "t", reward=np.array([ret], np.float32))
        assert describe(data)["score"]["tq"] == pytest.approx(tq, abs=1e-6)


def test_saturation_by_hand():
    # Within 0.001 of an end: -1, 0.9995, 1 in the first dimension, 1 of 4 in the second
    action = np.array([[-1, 0], [0.9995, 0.95], [1, -0.995], [0.5, -1]], np.float32)
    found = describe(record([4], "t", action=action))["saturation"]
    # Beyond 0.9: all but 0 and 0.5; beyond 0.99 without 0.95
    assert found == {"all": 4 / 8, "max": 3 / 4, "0.9": 6 / 8, "0.99": 5 / 8}


def brute_force(data: Transitions, limits: Transitions) -> int:
    """Distinct cells, counted one number at a time."""
    columns = [np.concatenate([x.obs, x.action], 1) for x in (data, limits)]
    cells = set()
    for row in columns[0]:
        cell = []
        for axis, value in enumerate(row):
            low, high = columns[1][:, axis].min(), columns[1][:, axis].max()
            edges = [low + (high - low) * k / (EDGES - 1) for k in range(EDGES)]
            cell.append(sum(value >= edge for edge in edges))
        cells.add(tuple(cell))
    return len(cells)


def test_saco_equals_a_brute_force_count():
    data, other = record([40, 60], "tt", seed=1), record([200], "t", seed=2)
    found = describe(data, other)["coverage"]
    assert found["distinct"] == brute_force(data, other)
    assert found["reference_distinct"] == brute_force(other, other)
    assert found["saco"] == found["distinct"] / found["reference_distinct"]
    assert found["reference"] == "mine/set-v0"
    assert describe(data)["coverage"]["distinct"] == brute_force(data, data)
    assert describe(data)["coverage"]["saco"] is None


def test_saco_of_the_reference_is_1_whatever_the_order_and_the_copies():
    data = record([100], "t")
    assert describe(data, data)["coverage"]["saco"] == 1
    order = np.random.default_rng(0).permutation(100)
    rows = np.concatenate([order, order])
    shuffled = record([200], "t", obs=data.obs[rows], action=data.action[rows])
    assert describe(shuffled, data)["coverage"]["saco"] == 1


def test_discrete_actions_are_their_own_cells():
    # Two observations on one axis that differ, three actions: all six pairs, some of them twice
    pairs = list(itertools.product([0.0, 1.0], range(3))) * 2
    obs = np.zeros((12, 3), np.float32)
    obs[:, 0] = [x for x, _ in pairs]
    action = np.array([a for _, a in pairs])
    found = describe(record([12], "t", discrete=True, obs=obs, action=action))
    assert found["coverage"]["distinct"] == 6
    assert found["saturation"] is None and found["action_size"] is None
    assert "discrete actions" in text(found) and "saturation" not in text(found)


def test_large_sets_are_sampled_evenly():
    n = ROWS + ROWS // 2
    obs = np.zeros((n, 3), np.float32)
    obs[:, 0] = np.arange(n) >= ROWS  # what differs comes after the first ROWS rows
    data = record([n], "t", obs=obs, action=np.zeros((n, 2), np.float32))
    assert describe(data)["coverage"]["distinct"] == 2


def test_a_reference_of_another_task_is_refused():
    with pytest.raises(DatasetError, match="of another task than mine/set-v0"):
        describe(record([9], "t"), record([9], "t", discrete=True))


def test_text_has_every_number():
    def shown(*sets):
        lines = text(describe(*sets)).splitlines()
        assert lines[0] == "mine/set-v0" and max(map(len, lines)) <= 100
        return " ".join(" ".join(lines).split())

    whole = shown(record([1, 2, 3, 6], "ttco"), record([50], "t", seed=3))
    for part in (
        "Hopper-v4: 3 observations, 2-dimensional actions",
        "12 in 4 episodes",
        "3.0 ± 1.9; min, quartiles, max: 1.0 1.8 2.5 3.8 6.0",
        "2 terminated, 1 truncated, 1 open",
        "0.7 (TQ 0.007) of the mean return",
        "0 and 100: D4RL's hopper",
        "state-action cells",
    ):
        assert part in whole, part
    assert "cut by a time limit" in shown(record([2], "o", timeouts="dropped"))
    assert "--reference NAME" in shown(record([2], "t"))
    assert "no reference returns" in shown(record([2], "t", task="Pendulum-v1"))
