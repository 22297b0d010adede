"""Behaviour policies: against the formulas, written out per row, and against the environments."""

import numpy as np
import pytest
from policy_samples import archive, run_folder

from rlsuite.core.policies import Behaviour
from rlsuite.core.saving import load_policy
from rlsuite.datasets.behaviour import NamedBehaviour, saved, snapshot, snapshots, uniform
from rlsuite.datasets.collect import roll
from rlsuite.datasets.transitions import DatasetError
from rlsuite.envs.engines import make


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("nonlinearity", ["relu", "tanh"])
@pytest.mark.parametrize("output", ["tanh_gaussian", "gaussian"])
def test_snapshots_act_by_the_published_formula(tmp_path, nonlinearity, output):
    strings = {"nonlinearity": nonlinearity, "output_distribution": output}
    path = archive(tmp_path / "some.npz", 3, 1, **strings)
    envs = make("Pendulum-v1", [0], 5)
    policy = snapshot(path, "online_2", envs)
    rng = np.random.default_rng(1)
    obs, noise = rng.standard_normal((1, 5, 3)), generator().standard_normal((1, 5, 1), np.float32)
    weights = {k.removeprefix("online_2/"): v for k, v in np.load(path).items()}
    squash = {"relu": lambda x: max(x, 0.0), "tanh": np.tanh}[nonlinearity]

    def layer(name, x):
        pair = weights[f"{name}/weight"], weights[f"{name}/bias"]
        return [w @ x + b for w, b in zip(*pair, strict=True)]

    expected, clipped = [], []
    for row in range(5):
        h = obs[0, row]
        for name in ("fc0", "fc1"):
            h = np.array([squash(x) for x in layer(name, h)])
        (mean,), (log_std,) = layer("last_fc", h), layer("last_fc_log_std", h)
        action = mean + np.exp(log_std) * noise[0, row, 0]
        action = np.tanh(action) if output == "tanh_gaussian" else action
        expected.append([action])
        clipped.append([np.clip(action, -2, 2)])  # Pendulum's bounds
    raw, applied = policy.act(obs, [generator()])
    assert applied.dtype == np.float32 and applied.shape == (1, 5, 1)
    np.testing.assert_allclose(raw[0], expected, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(applied[0], clipped, rtol=2e-5, atol=1e-6)


def test_the_mode_has_no_noise_and_names_are_in_order_of_training(tmp_path):
    path = archive(tmp_path / "some.npz", 3, 1)
    envs = make("Pendulum-v1", [0], 2)
    assert snapshots(path) == ["online_2", "online_10"]
    obs = np.ones((1, 2, 3))
    mode, sampled = (snapshot(path, "online_2", envs, mode) for mode in (True, False))
    assert mode.name == sampled.name == "online_2"
    for given in (None, [generator()]):
        np.testing.assert_array_equal(mode.act(obs, given), sampled.act(obs))
    assert not np.array_equal(mode.act(obs), sampled.act(obs, [generator()]))


def test_ant_is_fed_27_values_and_84_zeros(tmp_path):
    path = archive(tmp_path / "some.npz", 111, 8)
    envs = make("Ant-v4", [0], 2, engine="gymnasium")
    assert envs.obs_size == 27
    policy = snapshot(path, "online_2", envs)
    obs = np.random.default_rng(0).standard_normal((1, 2, 27))
    weights = np.load(path)
    padded = np.concatenate([obs[0], np.zeros((2, 84))], 1)
    h = padded
    for layer in ("fc0", "fc1"):
        h = np.maximum(
            h @ weights[f"online_2/{layer}/weight"].T + weights[f"online_2/{layer}/bias"], 0
        )
    mean = h @ weights["online_2/last_fc/weight"].T + weights["online_2/last_fc/bias"]
    np.testing.assert_allclose(policy.act(obs)[1][0], np.tanh(mean), rtol=1e-4, atol=1e-6)


def test_bad_snapshots_are_named(tmp_path):
    envs = make("Pendulum-v1", [0], 1)
    path = archive(tmp_path / "some.npz", 3, 1)
    with pytest.raises(DatasetError, match="no policy 'online_11'; use one of online_1"):
        snapshot(path, "online_11", envs)
    with pytest.raises(DatasetError, match="use one of online_2, online_10"):
        snapshot(path, "best", envs)
    with pytest.raises(DatasetError, match=r"other.npz is not there.*--policies"):
        snapshot(tmp_path / "other.npz", "online_2", envs)
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(DatasetError, match="not a readable"):
        snapshots(tmp_path / "text.npz")
    with pytest.raises(DatasetError, match=r"11 observations and 1 action dim.* has 3 and 1"):
        snapshot(archive(tmp_path / "some.npz", 11, 1), "online_2", envs)
    with pytest.raises(DatasetError, match=r"online_2 of .* is not whole: .*softplus"):
        snapshot(archive(tmp_path / "some.npz", 3, 1, nonlinearity="softplus"), "online_2", envs)


@pytest.mark.parametrize(
    ("task", "discrete", "sizes"), [("Pendulum-v1", False, (3, 1)), ("CartPole-v1", True, (4, 2))]
)
def test_saved_policies_act_as_their_seed(tmp_path, task, discrete, sizes):
    folder, envs = run_folder(tmp_path, task, discrete, sizes), make(task, [0], 4)
    policy = saved(folder, 5, envs)
    obs = np.random.default_rng(1).standard_normal((1, 4, sizes[0]))
    _, action = policy.act(obs, [generator()])
    # Among both seeds at once, the second is seed 5
    both, _ = load_policy(folder)
    rngs = [np.random.default_rng(2), generator()]
    expected = both.behaviour().act(np.repeat(obs, 2, 0), rngs)[0][1]
    if not discrete:
        expected = np.clip(expected, -2, 2)
    np.testing.assert_allclose(action[0], expected, rtol=1e-5)
    assert action.dtype == (np.int64 if discrete else np.float32)
    envs.reset(np.arange(4)[None])
    envs.step(action)  # accepted as it is
    mode = saved(folder, 5, envs, mode=True)
    assert mode.name == policy.name == "seed 5"
    np.testing.assert_array_equal(mode.act(obs, [generator()]), policy.act(obs))


def test_bad_runs_are_named(tmp_path):
    folder = run_folder(tmp_path, "Pendulum-v1", False, (3, 1))
    with pytest.raises(DatasetError, match=r"seed 4 is not in .*; it has 3, 5"):
        saved(folder, 4, make("Pendulum-v1", [0], 1))
    with pytest.raises(DatasetError, match=r"3 observations and 1 action dim.* has 4 and 2"):
        saved(folder, 3, make("CartPole-v1", [0], 1))
    with pytest.raises(ValueError, match="no readable policy"):
        saved(tmp_path / "nowhere", 3, make("Pendulum-v1", [0], 1))


def test_uniform_fills_the_box_evenly():
    policy, rngs = uniform(make("Pendulum-v1", [0], 1)), [generator()]
    _, action = policy.act(np.zeros((1, 20_000, 3)), rngs)
    assert action.dtype == np.float32 and action.shape == (1, 20_000, 1)
    counts, _ = np.histogram(action, 10, (-2, 2))
    # 2,000 expected in each tenth, standard deviation sqrt(20,000 * 0.1 * 0.9) = 42
    assert np.abs(counts - 2000).max() < 4 * 42.5 and counts.sum() == 20_000
    discrete = uniform(make("CartPole-v1", [0], 1))
    _, drawn = discrete.act(np.zeros((1, 1000, 4)), rngs)
    # 500 expected, standard deviation sqrt(1000 / 4) = 15.8
    assert drawn.shape == (1, 1000) and abs(int(drawn.sum()) - 500) < 4 * 15.8


class Stopwatch(Behaviour):
    """Its action is the time since the episode of each environment began, in hundredths."""

    def __init__(self, count: int) -> None:
        self.time = np.full((1, count), -1)

    def act(self, obs, rngs=None):
        self.time += 1
        action = np.float32(0.01 * self.time[..., None])
        return action, action

    def reset(self, ended):
        self.time[ended] = -1


def test_what_a_behaviour_keeps_ends_with_its_episode():
    envs = make("InvertedPendulum-v4", [0], 3, engine="gymnasium")
    episodes = roll(NamedBehaviour("stopwatch", Stopwatch(3)), envs, 200, generator())
    assert len(episodes) > 3  # more than there are environments, so some are not the first
    for episode in episodes:
        expected = np.float32(0.01 * np.arange(len(episode.action)))
        np.testing.assert_array_equal(episode.action[:, 0], expected)
