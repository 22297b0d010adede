"""Videos of saved policies, without a display."""

from pathlib import Path

import gymnasium
import pytest

from rlsuite.cli import main
from rlsuite.experiments import recording
from rlsuite.experiments.run import RunError


def test_video_has_as_many_frames_as_the_episode(short_runs, tmp_path, capsys) -> None:
    import imageio

    folder = short_runs.train("run", "ppo", "CartPole-v1")
    out = tmp_path / "policy.mp4"
    assert main(["record", str(folder), "--out", str(out), "--seed", "1"]) == 0
    frames = imageio.get_reader(out).count_frames()
    assert 2 <= frames <= 501
    assert imageio.get_reader(out).get_data(0).std() > 0, "an empty picture"


def test_seed_that_was_not_trained_is_refused(short_runs, tmp_path) -> None:
    folder = short_runs.train("run", "ppo", "CartPole-v1")
    with pytest.raises(RunError, match=r"seed 7 is not in .*; it has 0, 1"):
        recording.record(folder, tmp_path / "x.mp4", seed=7)
    assert not Path(tmp_path / "x.mp4").exists()


@pytest.mark.parametrize(
    ("task", "follows"), [("Hopper-v4", True), ("Reacher-v4", False), ("CartPole-v1", False)]
)
def test_the_camera_goes_along_where_the_model_has_one_that_does(task, follows) -> None:
    # Hopper's model has a camera called track; Reacher's, which stays where it is, has none
    env = gymnasium.make(task, disable_env_checker=True)
    assert recording._has_camera(env.unwrapped, "track") is follows
    env.close()
