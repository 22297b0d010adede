"""A run as it is judged while it trains: evaluations, and seeds whose training diverges."""

from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

from rlsuite import envs
from rlsuite.datasets import scores
from rlsuite.datasets.transitions import Transitions
from rlsuite.runs import divergence, logs
from rlsuite.runs import folder as folders
from rlsuite.runs.evaluation import cost_columns, evaluate_all, label, of_seeds
from rlsuite.runs.folder import RunError
from rlsuite.runs.settings import Settings, learning_rates
from rlsuite.runs.stored import StoredRun


class JudgedRun(StoredRun):
    """What a run knows of its policies, and of its seeds, besides what it stores."""

    def __init__(self, folder: Path, manifest: dict, config: object, settings: Settings) -> None:
        super().__init__(folder, manifest, config, settings)
        self._engine, self._evaluation_engine = folders.engines(folder, manifest)
        self._training: envs.Environments | None = None
        self._evaluating: envs.Environments | None = None
        self._data: Transitions | None = None
        self._board: logs.Board | None = None

    def _prepare_evaluation(self) -> None:
        if self._evaluating is None:
            episodes = self.settings.evaluation_episodes
            self._evaluating = self._made(episodes, self._evaluation_engine)
            self.spaces = self._evaluating.spaces

    def _evaluate(self) -> None:
        start = perf_counter()
        # Rows keep their columns: a run that an older version began has no sampled actions
        twice = bool(self.manifest.get("constraints"))
        twice &= not self._history or label(sampled=True) in self._history[0][1]
        env_seeds = self.streams.integers("evaluation", self.settings.evaluation_episodes)
        found = evaluate_all(self._policies, self._evaluating, env_seeds, twice)
        divergence.without(found, self.dropped)
        self._history.append((self.step, found))
        if self._best:
            judged = found.get(label(sampled=True), found[label()])
            main = next(iter(self._policies.values()))
            self._best.take(main, self.step, judged, self._evaluating.constraints if twice else ())
        constraints = self._evaluating.constraints
        paid = cost_columns(constraints, "total_training_") if twice and self._training else []
        score = partial(scores.normalized, self.task) if self._data else None
        shared = self._shared(paid)
        rows = logs.evaluation_rows(found, list(self._policies), constraints, shared, score)
        alive = {self.seeds[slot] for slot in self.alive}
        self._append(logs.EVALUATIONS, [row for row in rows if row["seed"] in alive])
        with self._writing():
            logs.write_history(self.folder, self._history, self.seeds)
            shown = {name: of_seeds(result, self.alive) for name, result in found.items()}
            self._board.add(self.step, logs.evaluation_tags(shown))
        self._seconds["evaluation"] = self._seconds.get("evaluation", 0) + perf_counter() - start

    def _to_board(self, rows: list[dict], values: dict[str, list[float]]) -> None:
        alive = self.alive
        means = {name: sum(each[slot] for slot in alive) for name, each in values.items()}
        shown = {f"metrics/{name}": whole / len(alive) for name, whole in means.items()}
        for row in rows:
            if row["training_return"] is not None:
                shown[f"training_return/seed_{row['seed']}"] = row["training_return"]
        with self._writing():
            self._board.add(self.step, shown)

    # ------------------------------------------------------------------------ what went wrong

    def _made(self, num_envs: int, engine: str) -> envs.Environments:
        """Environments, `num_envs` per seed, that tell whose policy has no numbers left."""
        made = envs.make(self.task, self.seeds, num_envs, engine)
        if self.settings.on_divergence == "drop":
            made.diverged = lambda slot: self._diverge(
                slot, f"the policy's action of seed {self.seeds[slot]} is not finite"
            )
        return made

    def _diverge(self, slot: int, what: str) -> None:
        """Drop a seed, where that is asked for and others are left; else RunError."""
        what = f"{what} at step {self.step}"
        if self.settings.on_divergence != "drop" or self.alive == [slot]:
            raise RunError(f"{what}: {self._diverged(slot)}")
        seed = self.seeds[slot]
        entry = self.dropped[slot] = {"seed": seed, "step": self.step, "reason": what}
        self._let_go(slot)
        known = {each["seed"] for each in folders.read(self.folder).get("dropped", ())}
        if seed not in known:  # a run that was killed later drops it again
            with self._writing():
                folders.record(self.folder, "dropped", entry)
        self.say(f"seed {seed} is dropped: {what}, training diverged; the others go on")

    def _let_go(self, slot: int) -> None:
        for pool in (self._training, self._evaluating):
            if pool is not None:
                pool.drop(slot)

    def _diverged(self, slot: int) -> str:
        """Why numbers are not finite, and what helps."""
        rewards = [abs(ret) / length for ret, length, *_ in self._recent[slot]]
        if self._data:
            rewards.append(float(np.abs(self._data.reward).max()))
        return divergence.reason(rewards, self.kept(), learning_rates(self.config))
