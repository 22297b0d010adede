"""Where a run's curves are shown while it trains: TensorBoard's files and, if asked for, W&B.

W&B is the one part that may send something elsewhere, and only with `--wandb PROJECT`.
"""

import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from tensorboard.plugins.hparams import summary_v2 as hparams

from rlsuite.runs import extras, logs
from rlsuite.runs.files import write_whole
from rlsuite.runs.folder import FINISHED, RunError

JUDGED = "evaluation/return"  # what the view of hyper-parameters shows beside them


class Boards:
    """All boards of one run, which are told the same."""

    def __init__(
        self, folder: Path, manifest: dict, first: int, say: Callable[[str], None]
    ) -> None:
        """first: the step from which on there may be something new."""
        settings = hyper_parameters(manifest)
        board = logs.Board(folder, first)
        names = [hparams.HParam(name) for name in settings]
        # One group for each setting: its runs differ by their seeds
        told = hparams.hparams_pb(settings, trial_id=manifest["config_hash"])
        board.write(hparams.hparams_config_pb(names, [hparams.Metric(JUDGED)]), first)
        board.write(told, first)
        self._boards = [board]
        project = manifest["settings"].get("wandb")
        if project:
            self._boards.append(WandB(folder, project, settings, say))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Show each of `values` by its tag."""
        for board in self._boards:
            board.add(step, values)

    def close(self) -> None:
        for board in self._boards:
            board.close()


class WandB:
    """A run in a W&B project, gone on with under the id that the run folder keeps."""

    def __init__(
        self, folder: Path, project: str, settings: Mapping, say: Callable[[str], None]
    ) -> None:
        """RunError where W&B cannot begin, for want of a login or of a network."""
        wandb = extras.require("wandb", "wandb")
        self._folder, kept = folder, folder / "wandb" / "id"
        kept.parent.mkdir(exist_ok=True)
        if not kept.exists():
            write_whole(kept, uuid.uuid4().hex.encode())
        quiet = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False)
        try:
            self._run = wandb.init(
                project=project, name=folder.name, id=kept.read_text(), resume="allow",
                dir=folder, config=dict(settings), settings=quiet,
            )  # fmt: skip
        except (wandb.Error, OSError) as error:
            why = str(error).splitlines()[0]
            raise RunError(
                f"W&B does not begin ({why}); WANDB_MODE=offline keeps its files in {folder}"
            ) from None
        here = f"{kept.parent}, which wandb sync sends"
        say(f"W&B has this run in {here if self._run.offline else self._run.url}")

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish(exit_code=0 if (self._folder / FINISHED).exists() else 1)


def hyper_parameters(manifest: dict) -> dict[str, bool | float | str]:
    """Algorithm, task and settings as boards take them: no lists, and None as a word."""
    found = {"algorithm": manifest["algorithm"], "task": manifest["task"]} | manifest["config"]
    return {name: _plain(value) for name, value in found.items()}


def _plain(value: object) -> bool | float | str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return value if isinstance(value, bool | int | float | str) else str(value)
