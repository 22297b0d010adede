"""The task table against Gymnasium's registry and both engines; choice of the engine; errors."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from rlsuite.envs import dm_control, make, physics_mismatch, tasks
from rlsuite.envs.sizes import DISCRETE, SIZES
from rlsuite.envs.tasks import TASKS, choose_engine, remember_typed, require_typed

PLAIN = [n for n, task in TASKS.items() if task.base is None and n not in dm_control.NAMES]


@pytest.mark.parametrize("task", PLAIN)
def test_table_matches_both_engines(task):
    if "gymnasium" in TASKS[task].engines:
        assert gymnasium.spec(task).max_episode_steps == TASKS[task].time_limit
    built = [make(task, [0], 1, engine=engine) for engine in TASKS[task].engines]
    for environments in built:
        assert environments.time_limit == TASKS[task].time_limit
        assert environments.obs_size == built[0].obs_size
        assert environments.discrete == built[0].discrete
        assert environments.action_size == built[0].action_size
        assert (environments.obs_size, environments.action_size) == SIZES[task]
        assert environments.discrete == (task in DISCRETE)
        if not environments.discrete:
            assert environments.action_low.dtype == np.float32
            np.testing.assert_array_equal(environments.action_low, built[0].action_low)
            np.testing.assert_array_equal(environments.action_high, built[0].action_high)
        environments.close()


def test_sizes_that_publications_rely_on():
    sizes = {"Ant-v4": 27, "Ant-v5": 105, "Humanoid-v4": 376, "Humanoid-v5": 348, "Hopper-v4": 11}
    for task, size in sizes.items():
        assert make(task, [0], 8).obs_size == size


def test_auto_takes_envpool_from_eight_environments():
    assert choose_engine("Hopper-v4", 7) == "gymnasium"
    assert choose_engine("Hopper-v4", 8) == "envpool"
    assert choose_engine("Pusher-v4", 1) == "envpool"
    assert choose_engine("Pendulum-v1", 80) == "gymnasium"
    assert choose_engine("Blackjack-v1", 80) == "gymnasium"
    assert make("Hopper-v4", [0, 1], 4).engine == "envpool"


def test_without_envpool(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    assert choose_engine("Hopper-v4", 80) == "gymnasium"
    with pytest.raises(ImportError, match=r"pip install envpool.*use engine='gymnasium'"):
        choose_engine("Hopper-v4", 80, "envpool")
    with pytest.raises(ImportError, match=r"pip install envpool.*Pusher-v5 runs on both"):
        choose_engine("Pusher-v4", 80)


def test_without_mujoco(monkeypatch):
    def missing(*args, **kwargs):
        raise gymnasium.error.DependencyNotInstalled("mujoco is not installed")

    monkeypatch.setattr(gymnasium, "make", missing)
    with pytest.raises(ImportError, match=r"pip install mujoco==3.6.0"):
        make("Hopper-v4", [0], 1)


def test_a_renderer_that_does_not_load_is_named(monkeypatch, tmp_path):
    (tmp_path / "OpenGL").mkdir()
    library = tmp_path / "OpenGL" / "driver.py"
    library.write_text("def load():\n    return None.glGetError\n")
    space = {}
    exec(compile(library.read_text(), str(library), "exec"), space)
    monkeypatch.setattr(gymnasium, "make", lambda *args, **kwargs: space["load"]())
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(
        ValueError, match=r"MUJOCO_GL is 'osmesa'.* does not load .*unset MUJOCO_GL"
    ):
        make("Hopper-v4", [0], 1)
    monkeypatch.delenv("MUJOCO_GL")
    with pytest.raises(ValueError, match="Hopper-v4 cannot be created: AttributeError"):
        make("Hopper-v4", [0], 1)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("hopper-v4", "unknown task 'hopper-v4': did you mean Hopper-v4"),
        ("Hopper", "did you mean Hopper-v"),
        ("Cartpole-v1", "did you mean CartPole-v1"),
        ("FrozenLke-v1", "did you mean FrozenLake-v1"),
        ("Qqqq", "unknown task 'Qqqq': `rlsuite tasks` lists the known ones. Your own env"),
        ("no_such_module:Thing-v0", "no module named 'no_such_module'; write MODULE:ID"),
        ("gymnasium:Thing-v0", "unknown task 'gymnasium:Thing-v0'"),
    ],
)
def test_unknown_tasks(task, message):
    with pytest.raises(ValueError, match=message):
        make(task, [0], 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Pusher-v4", [0], 1, "gymnasium"), "use 'envpool'. Gymnasium refuses Pusher-v4"),
        (("Pendulum-v1", [0], 8, "envpool"), "use 'gymnasium'. EnvPool's Pendulum-v1 is another"),
        (("Blackjack-v1", [0], 8, "envpool"), "does not run 'Blackjack-v1': use engine='gymn"),
        (("WalkerWalk-v1", [0], 8, "gymnasium"), "use 'envpool'. Only EnvPool runs dm_control's"),
        (("Hopper-v3", [0], 1), "unknown task 'Hopper-v3': did you mean Hopper-v5 or Hopper-v4"),
        (("Hopper-v4", [0], 1, "isaac"), "unknown engine 'isaac': choose 'auto', 'envpool'"),
        (("Hopper-v4", [], 1), "seeds is empty"),
        (("Hopper-v4", [0], 0), "num_envs must be at least 1, got 0"),
        (("Hopper-v4", [0], 8, "auto", 0), "threads must be at least 1, got 0"),
    ],
)
def test_arguments_that_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(*arguments)


def test_importing_the_package_loads_no_engine():
    code = "import sys, rlsuite.envs; print({'envpool', 'mujoco', 'gymnasium'} & {*sys.modules})"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


@pytest.fixture
def untyped(tmp_path, monkeypatch):
    """Nothing was typed, in this process or before it; the cache lies in the folder given."""
    monkeypatch.setenv("RLSUITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tasks, "_typed", set())
    return tmp_path / "cache"


def test_a_module_that_was_never_typed_is_refused(untyped):
    with pytest.raises(ValueError, match=r"^x/config.json names the module 'strange.one', .*--env"):
        require_typed("strange.one:Thing-v0", "x/config.json")
    assert not untyped.exists()
    require_typed("Hopper-v4", "x/config.json")


def test_what_was_typed_is_remembered_by_later_processes(untyped, monkeypatch):
    remember_typed("mine:Thing-v0")
    remember_typed("mine:Other-v0")
    remember_typed("Hopper-v4")
    monkeypatch.setattr(tasks, "_typed", set())  # as in a later process
    require_typed("mine:Other-v1", "x")
    assert (untyped / "typed_modules.txt").read_text() == "mine\n"
    with pytest.raises(ValueError, match=r"'mine\.sub'"):
        require_typed("mine.sub:Thing-v0", "x")


def test_a_cache_that_cannot_be_written_forgets_no_word_of_this_process(untyped):
    untyped.write_text("a file where the folder should be")
    remember_typed("mine:Thing-v0")
    require_typed("mine:Thing-v0", "x")


def test_a_module_of_the_current_folder_is_found(tmp_path, monkeypatch):
    # An installed console script has its own folder in sys.path, not the current one
    (tmp_path / "module_of_this_folder.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Here-v0', 'gymnasium.envs.classic_control:PendulumEnv')\n"
    )
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != ""])
    monkeypatch.chdir(tmp_path)
    assert choose_engine("module_of_this_folder:Here-v0", 1) == "gymnasium"
    del gymnasium.registry["Here-v0"]


def test_an_id_without_its_module_gets_the_module_of_this_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "arms.py").write_text("raise RuntimeError; register('Arm-v0', ...)\n")
    (tmp_path / "legs.py").write_text('register("Leg-v0", ...)\n')
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe 'Arm-v0'")
    with pytest.raises(ValueError, match="unknown task 'Arm-v0': did you mean arms:Arm-v0\\?"):
        make("Arm-v0", [0], 1)


def test_another_mujoco_than_envpools_is_told(monkeypatch, warned):
    pytest.importorskip("envpool")
    assert physics_mismatch("Hopper-v4") is None
    monkeypatch.setattr(tasks, "version", lambda package: "3.17.0")
    said = physics_mismatch("Hopper-v4")
    assert said == (
        f"MuJoCo 3.17.0 is installed, but EnvPool computes with {tasks._embedded_mujoco()}: the "
        f"two engines' physics differ. Run `pip install mujoco=={tasks._embedded_mujoco()}`"
    )
    for _ in range(2):
        make("Hopper-v4", [0], 1)
    assert warned() == [said]
    # No MuJoCo, one engine alone, and the user's own
    for task in ("CartPole-v1", "WalkerWalk-v1", "mine:Hopper-v4"):
        assert physics_mismatch(task) is None


def test_without_envpool_nothing_mismatches(monkeypatch):
    monkeypatch.setattr(tasks, "_embedded_mujoco", lambda: None)
    monkeypatch.setattr(tasks, "version", lambda package: "3.17.0")
    assert physics_mismatch("Hopper-v4") is None
