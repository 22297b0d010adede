"""D4RL files: each rule of the conversion, by hand and against a loop; what is refused."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from samples import FIELDS, LAST, ROWS, columns, cut_short, d4rl_file, same, transitions

from rlsuite.datasets import d4rl
from rlsuite.datasets.transitions import DatasetError

# Rows 3 and 9 are time-outs, row 12 is the last: what is left of rows 0..12
DROPPED = [0, 1, 2, 4, 5, 6, 7, 8, 10, 11, 12]
SUFFIXES = pytest.mark.parametrize("suffix", [".hdf5", ".npz"])


def by_loop(rows: dict, time_limit: int | None = None) -> list[tuple]:
    """(obs, action, reward, next obs, terminated) of each transition, one row after the other."""
    found, step = [], 0
    for i in range(len(rows["rewards"]) - 1):
        out_of_time = rows["timeouts"][i] if "timeouts" in rows else step == time_limit - 1
        if not out_of_time:
            row = [rows[key][i].tolist() for key in ("observations", "actions", "rewards")]
            found.append((*row, rows["observations"][i + 1].tolist(), bool(rows["terminals"][i])))
        step = 0 if out_of_time or rows["terminals"][i] else step + 1
    return found


def as_loop(data) -> list[tuple]:
    named = ("obs", "action", "reward", "next_obs", "terminated")
    return list(zip(*(getattr(data, name).tolist() for name in named), strict=True))


# ------------------------------------------------------------------------------------- the rules


@SUFFIXES
def test_without_next_observations(tmp_path, suffix):
    data = d4rl.read(d4rl_file(tmp_path / f"pendulum{suffix}", "next_observations"))
    # 13 rows, less the last one, less time-outs in rows 3 and 9: 13 - 1 - 2 = 10
    assert len(data) == 10
    assert data.obs[:, 0].tolist() == [0, 1, 2, 100, 101, 200, 201, 202, 300, 301]
    # The next row's observation; after the terminal in row 5 that is episode 2's first
    assert data.next_obs[:, 0].tolist() == [1, 2, 3, 101, 200, 201, 202, 203, 301, 302]
    assert data.reward.tolist() == [0, 1, 2, 10, 11, 20, 21, 22, 30, 31]
    assert data.terminated.nonzero()[0].tolist() == [4]  # row 9, terminal and time-out, is gone
    assert not data.truncated.any()
    # The last stored rows of episodes: 2, 5, 8 and 11 of the file
    assert data.last.nonzero()[0].tolist() == [2, 4, 7, 9]
    assert data.metadata["timeouts"] == "dropped"


@SUFFIXES
def test_next_observations_are_used(tmp_path, suffix):
    file = d4rl_file(tmp_path / f"pendulum{suffix}")
    data = d4rl.read(file)
    same(replace(data, last=transitions().last[DROPPED]), transitions(), DROPPED)
    # The last row stays, and the terminal of row 5 has its own next observation, 102
    assert data.next_obs[[4, 10], 0].tolist() == [102, 303]
    # Without their rows at the time limit, episodes 0 and 2 end at rows 2 and 8 of the file
    assert data.last.nonzero()[0].tolist() == [2, 4, 7, 10]
    kept = d4rl.read(file, "kept")
    same(kept, transitions())
    assert kept.last.nonzero()[0].tolist() == LAST
    assert kept.metadata["timeouts"] == "kept"


def test_kept_needs_next_observations(tmp_path):
    with pytest.raises(DatasetError, match=r"no 'next_observations'.*cannot be kept"):
        d4rl.read(d4rl_file(tmp_path / "pendulum.npz", "next_observations"), "kept")
    with pytest.raises(DatasetError, match="'keep' is unknown; use one of kept, dropped"):
        d4rl.read(tmp_path / "pendulum.npz", "keep")


def test_count_of_transitions_and_no_boundary_crossed(tmp_path):
    """Invariant 2: N - 1 - time-outs in the first N - 1 rows; none leads into another episode."""
    rng = np.random.default_rng(0)
    for case in range(20):
        n = int(rng.integers(5, 60))
        flags = {"terminals": rng.random(n) < 0.1, "timeouts": rng.random(n) < 0.2}
        obs = np.cumsum(rng.random((n, 2)), 0)
        number = np.cumsum(flags["terminals"] | flags["timeouts"])
        rows = {"observations": obs, "actions": rng.random((n, 1)), "rewards": rng.random(n)}
        rows = {k: v.astype(np.float32) for k, v in rows.items()} | flags
        data = d4rl.read(d4rl_file(tmp_path / f"{case}.npz", "next_observations", **rows))
        assert len(data) == n - 1 - flags["timeouts"][:-1].sum()
        assert as_loop(data) == by_loop(rows)
        episode = dict(zip(rows["observations"][:, 0].tolist(), [0, *number[:-1]], strict=True))
        inside = ~data.terminated
        for one, other in zip(data.obs[inside, 0], data.next_obs[inside, 0], strict=True):
            assert episode[float(one)] == episode[float(other)]
        stored = [episode[float(first)] for first in data.obs[:, 0]]
        ends = [i for i in range(len(data)) if i + 1 == len(data) or stored[i] != stored[i + 1]]
        assert data.last.nonzero()[0].tolist() == ends


def test_files_without_timeouts_use_the_time_limit(tmp_path):
    terminals = np.zeros(12, bool)
    terminals[[4, 8]] = True
    rows = {"observations": np.arange(12.0)[:, None], "actions": np.zeros((12, 1))}
    rows |= {"rewards": np.zeros(12), "terminals": terminals}
    file = d4rl_file(tmp_path / "x.npz", "timeouts", "next_observations", **rows)
    data = d4rl.read(file, time_limit=3)
    # Steps of each episode, time-outs at the third:  0 1 2! | 0 1t | 0 1 2! | 0t | 0 1 2!
    # Rows 2, 7 and 11 are time-outs; 11 is the last row, too. 12 - 1 - 2 = 9 are left.
    assert data.obs[:, 0].tolist() == [0, 1, 3, 4, 5, 6, 8, 9, 10]
    assert as_loop(data) == by_loop(rows, 3)
    # D4RL itself counts 1 after a terminal: rows 2, 6 and 10, and 7 -> 8 crosses into an episode


def test_the_time_limit_comes_from_the_files_name(tmp_path):
    rows = {"observations": np.zeros((2100, 1)), "actions": np.zeros((2100, 1))}
    rows |= {"rewards": np.zeros(2100), "terminals": np.zeros(2100, bool)}
    without = ("timeouts", "next_observations")
    # Hopper: 1000 steps, so rows 999 and 1999 go, and the last: 2100 - 3 = 2097
    assert len(d4rl.read(d4rl_file(tmp_path / "hopper_medium.hdf5", *without, **rows))) == 2097
    # Door: 200 steps; 2100 / 200 = 10.5, so ten time-outs: 2100 - 11 = 2089
    assert len(d4rl.read(d4rl_file(tmp_path / "door-human-v0.hdf5", *without, **rows))) == 2089
    with pytest.raises(DatasetError, match=r"no 'timeouts'.*time limit.*--task"):
        d4rl.read(d4rl_file(tmp_path / "mine.hdf5", *without, **rows))


def test_what_is_terminal_exactly_at_the_limit_is_dropped(tmp_path):
    rows = {"observations": np.arange(5.0)[:, None], "actions": np.zeros((5, 1))}
    rows |= {"rewards": np.zeros(5), "terminals": np.array([0, 0, 1, 0, 0], bool)}
    file = d4rl_file(tmp_path / "x.npz", "timeouts", "next_observations", **rows)
    # Limit 3: row 2 is the third step and terminal; rows 3 and 4 are a new episode; 4 is the last
    assert d4rl.read(file, time_limit=3).obs[:, 0].tolist() == [0, 1, 3]


def test_dtypes_and_columns_of_one(tmp_path):
    """float64 to float32; rewards and flags may be [N, 1], flags numbers, whole actions [N, 1]."""
    shaped = {"rewards": columns()["rewards"].astype(float)[:, None]}
    shaped |= {"terminals": columns()["terminals"].astype(np.uint8)[:, None]}
    for suffix in (".npz", ".hdf5"):
        file = d4rl_file(tmp_path / f"a{suffix}", actions=np.arange(13)[:, None] % 3, **shaped)
        data = d4rl.read(file, "kept")
        same(replace(data, action=transitions().action), transitions())
        assert data.discrete and data.action.dtype == np.int64
        assert data.action.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0]


@SUFFIXES
def test_one_float_a_row_is_a_one_dimensional_action(tmp_path, suffix):
    file = d4rl_file(tmp_path / f"pendulum{suffix}", actions=columns()["actions"][:, 0])
    same(d4rl.read(file, "kept"), transitions())


@SUFFIXES
def test_damaged_episodes_are_left_out_if_asked(tmp_path, suffix):
    terminals, rewards = columns()["terminals"].astype(np.float32), columns()["rewards"]
    terminals[4], rewards[11] = np.nan, np.inf
    file = d4rl_file(tmp_path / f"pendulum{suffix}", terminals=terminals, rewards=rewards)
    with pytest.raises(DatasetError, match=r"terminals of row 4 is nan.* --skip-damaged"):
        d4rl.read(file, "kept")
    data = d4rl.read(file, "kept", skip_damaged=True)
    # Episodes 1 (rows 4, 5) and 3 (rows 10 to 12) go
    assert data.reward.tolist() == [0, 1, 2, 3, 20, 21, 22, 23]
    assert data.last.nonzero()[0].tolist() == [3, 7]
    assert data.metadata["remarks"] == ["2 of 4 episodes are damaged and left out: 1, 3"]


# ------------------------------------------------------------------------------------- refusals


def test_missing_and_strange_files(tmp_path):
    with pytest.raises(DatasetError, match=r"gone.hdf5: no such file.*rlsuite data list"):
        d4rl.read(tmp_path / "gone.hdf5")
    with pytest.raises(DatasetError, match=r"x.pkl is no D4RL file.*\.hdf5 or \.h5 or \.npz"):
        d4rl.read(tmp_path / "x.pkl")
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    (tmp_path / "text.hdf5").write_text("version https://example.net/pointer")
    np.savez(tmp_path / "pickle.npz", **columns(actions=np.array([{}] * ROWS)))
    for name in ("one.npz", "text.hdf5", "pickle.npz"):
        with pytest.raises(DatasetError, match=f"{name} cannot be read .*copy it again"):
            d4rl.read(tmp_path / name)


@SUFFIXES
@pytest.mark.parametrize("keep", [0.2, 0.6, 0.95])
def test_files_cut_short(tmp_path, suffix, keep):
    file = cut_short(d4rl_file(tmp_path / f"pendulum{suffix}"), keep)
    with pytest.raises(DatasetError, match=r"pendulum.* cannot be read .*damaged or cut short"):
        d4rl.read(file)


def test_a_changed_byte_in_compressed_data(tmp_path):
    noise = np.random.default_rng(0).random((ROWS, 3))
    file = d4rl_file(tmp_path / "pendulum.hdf5", observations=noise)
    with h5py.File(file) as opened:
        place = opened["observations"].id.get_chunk_info(0).byte_offset
    content = bytearray(file.read_bytes())
    content[place + 10 : place + 40] = bytes(30)
    file.write_bytes(content)
    with pytest.raises(DatasetError, match="cannot be read"):
        d4rl.read(file)


@SUFFIXES
@pytest.mark.parametrize(
    ("without", "instead", "message"),
    [
        (["actions"], {}, "has no 'actions': it holds next_observations, observations"),
        (["rewards", "terminals"], {}, "has no 'rewards' and no 'terminals'"),
        ([], {"rewards": np.zeros(12)}, "observations has 13 rows and rewards has 12"),
        ([], {"timeouts": np.zeros(14, bool)}, "timeouts has 14 rows and rewards has 13"),
        ([], {"observations": np.zeros((13, 2, 2))}, r"observations has shape \[13, 2, 2\]"),
        ([], {"observations": np.zeros((13, 4))}, r"shapes \[13, 4\] and \[13, 3\]"),
        ([], {"actions": np.zeros((13, 1, 1))}, r"actions has shape \[13, 1, 1\]; needed are"),
        ([], {"terminals": np.full(13, np.nan)}, "terminals of row 0 is nan, and must be 0 or 1"),
        ([], {"timeouts": np.arange(13) % 3}, "timeouts of row 2 is 2, and must be 0 or 1"),
        ([], {"actions": np.arange(13) - 4}, "action of row 0 is -4; discrete actions are"),
    ],
)
def test_columns_that_do_not_fit(tmp_path, suffix, without, instead, message):
    file = d4rl_file(tmp_path / f"pendulum{suffix}", *without, **instead)
    with pytest.raises(DatasetError, match=rf"pendulum\{suffix}.*{message}"):
        d4rl.read(file)


def test_nothing_in_it(tmp_path):
    empty = {key: values[:0] for key, values in columns().items()}
    with pytest.raises(DatasetError, match="holds no transition"):
        d4rl.read(d4rl_file(tmp_path / "empty.npz", **empty))
    # The only row is the last row, and has no next one
    one = {key: values[:1] for key, values in columns("next_observations").items()}
    with pytest.raises(DatasetError, match="no transition is left of 1 rows"):
        d4rl.read(d4rl_file(tmp_path / "one.npz", "next_observations", **one))


def test_a_group_where_an_array_belongs(tmp_path):
    file = d4rl_file(tmp_path / "pendulum.hdf5", "observations")
    with h5py.File(file, "a") as opened:
        opened["observations/position"] = np.zeros((13, 2))
    with pytest.raises(DatasetError, match="observations is a group"):
        d4rl.read(file)


# ------------------------------------------------------------------------------------- the rest


def test_write_and_read_again(tmp_path):
    d4rl.write(transitions(), tmp_path / "mine.hdf5")
    again = d4rl.read(tmp_path / "mine.hdf5", "kept")
    same(again, transitions())
    expected = {"name": "mine", "task": "Pendulum-v1", "source": "by hand"}
    expected |= {"action_low": [-2.0], "action_high": [2.0]}
    assert again.metadata.items() >= expected.items()
    with h5py.File(tmp_path / "mine.hdf5") as file:
        assert set(file) == set(columns())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.hdf5"]


def test_an_end_without_a_reason_becomes_a_time_out(tmp_path):
    data = transitions()
    data.last[7] = True  # somewhere in episode 2, as where two sets were joined
    d4rl.write(data, tmp_path / "mine.hdf5")
    with h5py.File(tmp_path / "mine.hdf5") as file:
        assert file["timeouts"][()].nonzero()[0].tolist() == [3, 7, 9]  # not row 12, the last


def test_write_refuses_and_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(DatasetError, match=r"ends in \.hdf5; type mine\.hdf5"):
        d4rl.write(transitions(), tmp_path / "mine.npz")
    with pytest.raises(DatasetError, match="rows at time limits are missing"):
        d4rl.write(transitions(timeouts="dropped"), tmp_path / "mine.hdf5")
    monkeypatch.setattr("h5py.Group.create_dataset", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        d4rl.write(transitions(), tmp_path / "mine.hdf5")
    assert list(tmp_path.iterdir()) == []
    d4rl_file(tmp_path / "mine.npz").rename(tmp_path / "mine.hdf5")
    with pytest.raises(DatasetError, match=r"mine\.hdf5 exists"):
        d4rl.write(transitions(), tmp_path / "mine.hdf5")


def test_the_task_of_a_file(tmp_path):
    named = {
        "hopper-medium-v2": "Hopper-v4",
        "antmaze_umaze-v2": None,
        "my_pendulum": "Pendulum-v1",
    }
    # Two versions of Swimmer are known, so the name does not tell
    for name, task in (named | {"swimmer": None, "mine": None}).items():
        assert d4rl.task(d4rl_file(tmp_path / f"{name}.npz")) == task
        assert d4rl.read(tmp_path / f"{name}.npz").metadata["task"] == task
    d4rl.write(transitions(task="HalfCheetah-v5"), tmp_path / "hopper.hdf5")
    assert d4rl.task(tmp_path / "hopper.hdf5") == "HalfCheetah-v5"


def test_families():
    found = {
        "hopper-medium-v2": "Hopper-v4",
        "halfcheetah_medium_replay-v2": "HalfCheetah-v4",
        "walker_mixed": "Walker2d-v4",
        "trajectories_ant": "Ant-v4",
        "door-v0_demos_clipped": "AdroitHandDoor-v1",
    }
    assert {name: d4rl.family(name).task for name in found} == found
    for name in ("antmaze-umaze-v2", "Ant_maze_u-maze_noisy_multistart_False", "maze2d-open-v0"):
        assert d4rl.family(name) == d4rl.Family(None, None)
    assert d4rl.family("openhopperish") is None


@pytest.mark.parametrize("part", [1, 2, 100])
def test_rows_are_kept_in_place_part_by_part(monkeypatch, part):
    monkeypatch.setattr(d4rl, "PART", part)
    rng = np.random.default_rng(part)
    for _ in range(20):
        arrays = {name: getattr(transitions(), name) for name in FIELDS}
        keep = rng.random(ROWS) < 0.6
        d4rl.keep_rows(arrays, keep)
        assert list(arrays) == list(FIELDS)
        for name in FIELDS[:-1]:
            np.testing.assert_array_equal(arrays[name], getattr(transitions(), name)[keep])


@pytest.mark.parametrize("part", [1, 2, 100])
def test_keep_rows_of_whole_episodes(monkeypatch, part):
    arrays = {name: getattr(transitions(), name) for name in FIELDS}
    monkeypatch.setattr(d4rl, "PART", part)
    d4rl.keep_rows(arrays, np.arange(ROWS) >= 10)  # only episode 3 is left
    assert arrays["reward"].tolist() == [30, 31, 32]
    assert arrays["last"].tolist() == [False, False, True]
