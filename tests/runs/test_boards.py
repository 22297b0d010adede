"""What TensorBoard's view of hyper-parameters is told, and W&B, if the user asks for it."""

import json
import sys
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from rlsuite.cli.main import main
from rlsuite.runs.boards import Boards
from rlsuite.runs.run import execute, reopen

MANIFEST = {
    "algorithm": "ppo",
    "task": "CartPole-v1",
    "config": {"clip": 0.2, "hidden": [64, 64], "target_kl": None, "anneal_lr": True},
    "config_hash": "0123456789ab",
    "settings": {"wandb": "mine"},
}
PLAIN = {"clip": 0.2, "hidden": "64 64", "target_kl": "None", "anneal_lr": True}


class Wandb:
    """What a run calls of the package."""

    def __init__(self) -> None:
        self.begun, self.logged, self.ended = [], [], []
        self.Error = type("Error", (Exception,), {})
        self.Settings = SimpleNamespace
        self.offline, self.__name__ = True, "wandb"

    def init(self, **given):
        self.begun.append(given)
        return self

    def log(self, values: dict, step: int) -> None:
        self.logged.append((step, values))

    def finish(self, exit_code: int) -> None:
        self.ended.append(exit_code)


def test_tensorboard_has_the_settings_beside_the_curves(finished_run) -> None:
    folder = finished_run("ppo", "CartPole-v1")
    events = EventAccumulator(str(folder)).Reload()
    told = events.PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(told["_hparams_/session_start_info"]).session_start_info
    assert start.hparams["clip"].number_value == 0.2
    assert start.hparams["hidden"].string_value == "64 64"
    assert start.hparams["anneal_lr"].bool_value is True
    assert start.hparams["task"].string_value == "CartPole-v1"
    manifest = json.loads((folder / "config.json").read_text())
    assert start.group_name == manifest["config_hash"]
    shown = HParamsPluginData.FromString(told["_hparams_/experiment"]).experiment
    (metric,) = (info.name.tag for info in shown.metric_infos)
    assert metric in events.Tags()["scalars"]
    assert {info.name for info in shown.hparam_infos} == set(start.hparams)


def test_wandb_gets_what_tensorboard_gets_and_goes_on_under_its_id(short_runs, monkeypatch) -> None:
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    run = short_runs.create("run", "ppo", "CartPole-v1", wandb="mine", checkpoints=2)
    evaluate, calls = run._evaluate, []

    def interrupted() -> None:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        evaluate()

    run._evaluate = interrupted
    with pytest.raises(KeyboardInterrupt):
        execute(run)
    execute(reopen(run.folder))
    first, second = wandb.begun
    assert first["project"] == "mine" and first["config"]["clip"] == 0.2
    assert first["id"] == second["id"] and first["resume"] == "allow"
    assert wandb.ended == [1, 0]
    events = EventAccumulator(str(run.folder)).Reload()
    shown = {event.step: event.value for event in events.Scalars("evaluation/return")}
    sent = {s: v["evaluation/return"] for s, v in wandb.logged if "evaluation/return" in v}
    assert sent == pytest.approx(shown) and len(sent) == 10


def test_wandb_keeps_its_files_in_the_run_folder_when_offline(tmp_path, monkeypatch) -> None:
    pytest.importorskip("wandb", reason="wandb is the optional extra rlsuite[wandb]")
    monkeypatch.setenv("WANDB_MODE", "offline")
    said = []
    boards = Boards(tmp_path, MANIFEST, 1, said.append)
    boards.add(1, {"evaluation/return": 2.0})
    boards.close()
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 1
    assert said == [f"W&B has this run in {tmp_path / 'wandb'}, which wandb sync sends"]


def test_settings_are_plain_for_boards(tmp_path, monkeypatch) -> None:
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    Boards(tmp_path, MANIFEST, 1, lambda text: None).close()
    told = {"algorithm": "ppo", "task": "CartPole-v1"} | PLAIN
    assert wandb.begun[0]["config"] == told


def test_wandb_that_cannot_begin_or_is_missing_leaves_no_folder(
    tmp_path, monkeypatch, capsys
) -> None:
    folder = tmp_path / "run"
    words = ["train", "ppo", "--env", "CartPole-v1", "--preset", "smoke", "--wandb", "mine"]
    words += ["--folder", str(folder)]
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(words) == 1
    assert capsys.readouterr().err == (
        "rlsuite train: wandb is not installed; type: pip install 'rlsuite[wandb]'\n"
    )
    wandb = Wandb()

    def refuse(**given):
        raise wandb.Error("no API key\nmore")

    wandb.init = refuse
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    assert main(words) == 1
    assert "W&B does not begin (no API key); WANDB_MODE=offline" in capsys.readouterr().err
    assert not folder.exists()
