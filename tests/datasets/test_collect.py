"""Collection: whole and unbiased episodes, true to the environment, the same each time."""

import json
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from policy_samples import archive, run_folder

from rlsuite.datasets import d4rl, minari, recipes, scores
from rlsuite.datasets.behaviour import saved, uniform
from rlsuite.datasets.collect import collect, environment_seeds, roll
from rlsuite.datasets.recipes import Recipe
from rlsuite.datasets.transitions import DatasetError
from rlsuite.envs.engines import make


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """Where sets go."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def random_recipe(task="Pendulum-v1", steps=400, **changes) -> Recipe:
    return Recipe("test/random-v0", task, steps, {"uniform": 1}, **changes)


def generator(seed=0):
    return np.random.default_rng(seed)


# ------------------------------------------------------------------------------------- episodes


@pytest.mark.filterwarnings("ignore:.*out of date")
@pytest.mark.parametrize("task", ["Pendulum-v1", "InvertedPendulum-v4", "Hopper-v4"])
def test_one_environment_replayed_gives_every_number_again(task):
    envs = make(task, [0], 1, engine="gymnasium")
    episodes = roll(uniform(envs), envs, 300, generator())
    env = gymnasium.make(task, disable_env_checker=True)
    seed = int(environment_seeds(generator(), 1)[0, 0])
    for k, episode in enumerate(episodes):
        obs, _ = env.reset(seed=seed if k == 0 else None)
        assert len(episode.obs) == len(episode.action) + 1 == len(episode.reward) + 1
        for t, action in enumerate(episode.action):
            np.testing.assert_array_equal(episode.obs[t], obs.astype(np.float32))
            obs, reward, terminated, truncated, _ = env.step(action)
            assert episode.reward[t] == np.float32(reward)
            assert (terminated or truncated) == (t == len(episode.reward) - 1)
        np.testing.assert_array_equal(episode.obs[-1], obs.astype(np.float32))
        assert (episode.terminated, episode.truncated) == (terminated, truncated)
    lengths = [len(episode.reward) for episode in episodes]
    assert sum(lengths) >= 300 > sum(lengths[:-1])


def test_parallel_environments_start_from_their_own_seeds():
    envs = make("Pendulum-v1", [0], 3)
    episodes = roll(uniform(envs), envs, 600, generator())
    seeds = environment_seeds(generator(), 3)[0].tolist()
    assert len(episodes) == 3 and len(set(seeds)) == 3
    env = gymnasium.make("Pendulum-v1")
    for seed, episode in zip(seeds, episodes, strict=True):
        obs, _ = env.reset(seed=seed)
        np.testing.assert_array_equal(episode.obs[0], obs)
        rewards = [env.step(action)[1] for action in episode.action]
        np.testing.assert_array_equal(episode.reward, np.float32(rewards))


@pytest.mark.filterwarnings("ignore:.*out of date")
def test_every_transition_of_envpool_is_one_of_gymnasiums():
    # Its observation is the whole state: position, angle and their velocities
    envs = make("InvertedPendulum-v4", [0], 8, engine="envpool")
    episodes = roll(uniform(envs), envs, 300, generator())
    env = gymnasium.make("InvertedPendulum-v4", disable_env_checker=True).unwrapped
    env.reset(seed=0)
    assert len(episodes) > 20
    for episode in episodes:
        assert (episode.terminated, episode.truncated) == (True, False)
        for t, action in enumerate(episode.action):
            state = episode.obs[t].astype(np.float64)
            env.set_state(state[:2], state[2:])
            obs, reward, terminated, _, _ = env.step(action)
            np.testing.assert_allclose(episode.obs[t + 1], obs, atol=1e-4)
            assert episode.reward[t] == reward
            assert terminated == (t == len(episode.reward) - 1)


class ShortOrLong(gymnasium.Env):
    """Episodes of 1 or 25 steps, either with probability 1/2; the first observation tells which."""

    observation_space = Box(0, 1, (1,), np.float64)
    action_space = Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 25 if self.np_random.random() < 0.5 else 1
        return np.array([float(self.left == 1)]), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(1), 0.0, self.left == 0, False, {}


@pytest.fixture
def short_or_long():
    gymnasium.register("ShortOrLong-v0", ShortOrLong)
    yield "ShortOrLong-v0"
    del gymnasium.registry["ShortOrLong-v0"]


def test_short_episodes_are_as_frequent_as_in_one_environment(short_or_long):
    envs = make(short_or_long, [0], 8)
    policy = uniform(envs)
    short = count = 0
    for seed in range(300):
        episodes = roll(policy, envs, 60, generator(seed))
        short += sum(len(episode.reward) == 1 for episode in episodes)
        count += len(episodes)
    # Half of about 300 * 5.6 episodes, standard deviation 0.5 / sqrt(1680) = 0.012. Episodes in the
    # order of their ends would give 0.75: short ones come in first.
    assert count > 1500 and short / count == pytest.approx(0.5, abs=0.04)


def test_an_episode_without_an_end_is_refused(short_or_long, monkeypatch):
    monkeypatch.setattr("rlsuite.datasets.collect.ENDLESS", 20)
    envs = make(short_or_long, [0], 2)
    with pytest.raises(DatasetError, match="no end after 20 steps"):
        roll(uniform(envs), envs, 200, generator())


# ----------------------------------------------------------------------------------------- sets


def stored(folder):
    """(transitions, metadata) of a set."""
    return minari.read(folder), json.loads((folder / "data/metadata.json").read_text())


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_collecting_twice_gives_identical_files(tmp_path, monkeypatch):
    first = files(collect(random_recipe(steps=2000)))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "again"))
    assert files(collect(random_recipe(steps=2000))) == first
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "other"))
    assert files(collect(random_recipe(steps=2000), seed=1)) != first


def test_parts_have_their_shares_and_come_in_order(tmp_path):
    archive(tmp_path / "some.npz", 3, 1)
    parts = {"online_10": 1, "uniform": 3}
    recipe = Recipe("test/mixed-v0", "Pendulum-v1", 1600, parts, snapshots="some.npz")
    folder = collect(recipe, tmp_path)
    data, metadata = stored(folder)
    # 1600 steps are 400 and 1200: 2 and 6 episodes of 200
    assert [metadata["parts"][part]["episodes"] for part in parts] == [2, 6]
    assert metadata["whole"]["steps"] == 1600 == len(data) and len(data.bounds()) == 8
    assert data.truncated.sum() == 8 and not data.terminated.any()
    # The first part is what a set of this part alone would be
    alone = Recipe("test/alone-v0", "Pendulum-v1", 400, {"online_10": 1}, snapshots="some.npz")
    np.testing.assert_array_equal(stored(collect(alone, tmp_path))[0].action, data.action[:400])


def test_quotas_add_up():
    recipe = Recipe("test/x-v0", "Hopper-v4", 1000, {"a": 1, "b": 1, "c": 1})
    # Cuts at 333.3 and 666.7, rounded: 333, 334, 333
    assert recipe.quotas() == {"a": 333, "b": 334, "c": 333}


def test_policies_of_a_run(tmp_path):
    folder = run_folder(tmp_path / "run", "Pendulum-v1", False, (3, 1))
    about = json.loads((folder / "policy/policy.json").read_text())
    recipe = recipes.of_run(about, "test/run-v0", 800, None, None)
    assert recipe.parts == {"3": 1, "5": 1} and recipe.task == "Pendulum-v1"
    data, metadata = stored(collect(recipe, folder))
    assert len(data) == 800 and len(metadata["policies_sha256"]) == 64
    assert data.metadata["source"].endswith("trained by rlsuite: ppo on Pendulum-v1, step 2048")
    assert metadata["algorithm_name"] == "seed 3 + seed 5"
    # Of one seed alone, by its mode: a function of the observation
    alone = replace(recipes.of_run(about, "test/mode-v0", 200, 5, None), mode=True)
    data, _ = stored(collect(alone, folder))
    policy = saved(folder, 5, make("Pendulum-v1", [0], 1), mode=True)
    expected = policy.act(data.obs[None].astype(np.float64))[1][0]
    np.testing.assert_allclose(data.action, expected, atol=1e-5)
    assert alone.parts == {"5": 1} and len(data) == 200


class Countdown(gymnasium.Env):
    """Actions -1, 0 and 1; the observation is the last one."""

    observation_space = Box(-1, 1, (1,), np.float32)
    action_space = Discrete(3, start=-1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.full(1, action, np.float32), float(action), False, False, {}


@pytest.fixture
def countdown():
    gymnasium.register("Countdown-v0", Countdown, max_episode_steps=10)
    yield "Countdown-v0"
    del gymnasium.registry["Countdown-v0"]


def test_discrete_actions_are_stored_as_the_environment_counts_them(countdown, root, tmp_path):
    import minari as farama

    folder = run_folder(tmp_path / "run", countdown, True, (1, 3))
    about = json.loads((folder / "policy/policy.json").read_text())
    sets = [
        collect(random_recipe(countdown, steps=60)),
        collect(recipes.of_run(about, "test/run-v0", 60, None, None), folder),
    ]
    sets.append(minari.write(minari.read(sets[0]), "test/again-v0"))
    d4rl.write(minari.read(sets[0]), tmp_path / "flat.hdf5")
    sets.append(minari.write(d4rl.read(tmp_path / "flat.hdf5", "kept"), "test/flat-v0"))
    for each in sets:
        dataset = farama.MinariDataset(each / "data")
        assert dataset.action_space == Discrete(3, start=-1)
        for episode in dataset.iterate_episodes():
            np.testing.assert_array_equal(episode.actions, episode.observations[1:, 0])
        data = minari.read(each)
        # Counted from 0 here: the action is the next observation, and one more
        np.testing.assert_array_equal(data.action, data.next_obs[:, 0] + 1)
        assert set(data.action) == {0, 1, 2}
        assert (data.metadata["action_start"], data.metadata["action_count"]) == (-1, 3)


def test_metadata_tells_where_a_set_comes_from():
    data, metadata = stored(collect(random_recipe("Hopper-v4", 300, seed=7)))
    returns = data.episode_returns()
    assert metadata["whole"]["return"]["mean"] == pytest.approx(np.mean(returns))
    assert metadata["whole"]["return"]["std"] == pytest.approx(np.std(returns))
    assert metadata["recipe"]["seed"] == 7 and metadata["engine"] == "gymnasium"
    low, high = (metadata[f"ref_{end}_score"] for end in ("min", "max"))
    assert (low, high) == scores.D4RL["hopper"]
    assert metadata["ref_source"] == scores.reference("Hopper-v4").text
    assert "Not a set of D4RL" in metadata["description"]
    assert metadata["versions"]["gymnasium"] == gymnasium.__version__
    assert data.metadata["source"] == "collected by rlsuite: uniform; uniform actions"
    # Random actions make it fall long before the limit of 1000 steps
    np.testing.assert_array_equal(data.terminated, data.last)
    assert not data.truncated.any() and len(data.bounds()) > 5


def test_nothing_is_left_after_an_interrupt(root, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(random_recipe(), progress=stop)
    assert not root.exists() or files(root) == {}


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (random_recipe(task="Pendulum-v9"), "unknown task"),
        (Recipe("test/x-v0", "Hopper-v4", 9, {"online_1": 1}, snapshots="x"), "--policies FOLDER"),
    ],
)
def test_what_cannot_be_collected_is_refused(recipe, message, root):
    with pytest.raises(ValueError, match=message):
        collect(recipe)
    assert not root.exists() or files(root) == {}


def test_a_set_that_is_there_is_refused_before_any_work(root, monkeypatch):
    folder = collect(random_recipe())
    before = files(folder)
    monkeypatch.setattr("rlsuite.datasets.collect.make", None)  # nothing may be built
    with pytest.raises(DatasetError, match="test/random-v0"):
        collect(random_recipe())
    assert files(folder) == before


# -------------------------------------------------------------------------------------- recipes


def test_recipes_that_come_along():
    sizes = {"hopper": 400_000, "halfcheetah": 200_000, "walker2d": 300_000}
    levels = ["random", "medium", "medium-replay", "medium-expert", "expert"]
    assert recipes.known() == {name: levels for name in sorted(sizes)}
    for name, replay in sizes.items():
        steps = dict(zip(levels, (1e6, 1e6, replay, 2e6, 1e6), strict=True))
        for level in levels:
            recipe = recipes.read(f"{name}/{level}")
            assert recipe.name == f"deep-ope/{name}/{level}-v0" and recipe.steps == steps[level]
            assert recipe.task.lower() == f"{name}-v4" and "deep_ope" in recipe.source
        both = recipes.read(f"{name}/medium-expert")
        halves = [recipes.read(f"{name}/{level}").parts for level in ("medium", "expert")]
        assert list(both.parts) == [policy for half in halves for policy in half]
        assert recipes.read(f"{name}/random").parts == {"uniform": 1}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hoper/medium", r"there is no recipe 'hoper/medium'; use hopper/medium"),
        ("hopper", r"there is no recipe 'hopper'; use .*hopper/"),
        ("hopper/best", r"use hopper/|no level 'best'; use one of random, medium"),
        ("nowhere.toml/medium", r"no recipe 'nowhere.toml/medium'"),
    ],
)
def test_unknown_recipes_name_the_known(name, message):
    with pytest.raises(DatasetError, match=message):
        recipes.read(name)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("steps = 0", "0 steps from seed 0; steps must be at least 1"),
        ("steps = 10\nlimit = 3", "unexpected key 'limit'"),
        ("", "missing 1 required positional argument: 'steps'|key.*steps"),
        ("steps = 10\nparts = { uniform = -1 }", "give each policy a share above 0"),
        ("steps = 2\nparts = { uniform = 1, a = 1, b = 1 }", "2 steps are too few for 3 policies"),
        ("steps = 1.5", "steps is 1.5; it must be a whole number"),
        ("steps = 9\nparts = 3", "parts is 3; it must be a table of policy = share"),
        ('steps = 9\nparts = { uniform = "all" }', "it must be a table of policy = share"),
        ("steps = 9\nmode = 1", "mode is 1; it must be true or false"),
        ("steps = 9\nsource = 1", "source is 1; it must be text"),
        ("steps = ", "is not TOML"),
    ],
)
def test_bad_recipe_files_are_named(tmp_path, line, message):
    parts = "" if "parts" in line else "parts = { uniform = 1 }"
    text = f'name = "my"\ntask = "Pendulum-v1"\n[random]\n{parts}\n{line}\n'
    (tmp_path / "my.toml").write_text(text)
    with pytest.raises(DatasetError, match=message):
        recipes.read(f"{tmp_path}/my.toml/random")
