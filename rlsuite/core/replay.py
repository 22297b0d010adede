"""Minibatches of logged transitions, drawn for each seed from its own stream."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlsuite.core.actors import BoundedActor, Standardizer
from rlsuite.core.chance import Chance
from rlsuite.core.policies import clip, normal


class Minibatch(NamedTuple):
    """B transitions of each seed, float32; observations standardised, rewards as logged."""

    obs: Tensor  # [S, B, O]
    action: Tensor  # [S, B, A]
    reward: Tensor  # [S, B]
    next_obs: Tensor  # [S, B, O]
    terminated: Tensor  # [S, B], 1 where the task ended the episode: no future

    def chunks(self, count: int) -> list["Minibatch"]:
        return [Minibatch(*parts) for parts in zip(*(x.chunk(count, 1) for x in self), strict=True)]


class OnlineRows:
    """Transitions that each seed has collected itself, up to `capacity`, in float32 [S, n, ...]."""

    def __init__(self, num_seeds: int, capacity: int, obs_size: int, action_size: int) -> None:
        self.count = 0
        shapes = ((obs_size,), (action_size,), (), (obs_size,), ())  # as the fields of Minibatch
        self.fields = [np.zeros((num_seeds, capacity, *shape), np.float32) for shape in shapes]

    def append(self, *row: np.ndarray) -> None:
        """One transition of every seed: obs [S, O], action [S, A], reward [S], next_obs, ended."""
        for field, value in zip(self.fields, row, strict=True):
            field[:, self.count] = value
        self.count += 1

    def state_dict(self) -> dict:
        return {"fields": [torch.from_numpy(x[:, : self.count].copy()) for x in self.fields]}

    def load_state_dict(self, state: dict) -> None:
        self.count = state["fields"][0].shape[1]
        for field, saved in zip(self.fields, state["fields"], strict=True):
            field[:, : self.count] = saved.numpy()


class Sampler:
    """Uniform draws, with replacement, from one data set that all seeds share.

    `data` is an `rlsuite.datasets.transitions.Transitions`; its arrays stay where they are, on disk
    if that is where they are, and only what is drawn is copied. Another device than the CPU gets
    the set whole, once. `kept` [n] are the rows to draw from, all if not given; `online`, on the
    CPU, adds what each seed has collected itself.
    """

    def __init__(
        self,
        data,
        normalizer: Standardizer,
        chance: Chance,
        kept: np.ndarray | None = None,
        online: OnlineRows | None = None,
    ) -> None:
        fields = (data.obs, data.action, data.reward, data.next_obs, data.terminated)
        self.fields = [np.asarray(x) for x in fields]  # a memmap, without its slow indexing
        self.normalizer, self.chance, self.kept, self.online = normalizer, chance, kept, online
        if chance.device.type != "cpu":
            chosen = self.fields if kept is None else [x[kept] for x in self.fields]
            options = {"dtype": torch.float32, "device": chance.device}
            self.resident = [torch.as_tensor(x, **options) for x in chosen]

    def draw(self, size: int) -> Minibatch:
        """`size` transitions of each seed."""
        logged = len(self.fields[0]) if self.kept is None else len(self.kept)
        count = logged + (self.online.count if self.online else 0)
        rows = self.chance.rows(count, size)
        if rows.device.type == "cpu":
            rows = rows.numpy() if self.kept is None else self.kept[rows.numpy()]
            batch = Minibatch(*(torch.from_numpy(x) for x in self._rows(rows, logged)))
        else:
            batch = Minibatch(*(x[rows] for x in self.resident))
        standardize = self.normalizer.standardize
        return batch._replace(obs=standardize(batch.obs), next_obs=standardize(batch.next_obs))

    def _rows(self, rows: np.ndarray, logged: int) -> list[np.ndarray]:
        """Every field at `rows` [S, B]; those from `logged` on are the seed's own."""
        if self.online is None or self.online.count == 0:
            return [x[rows].astype(np.float32, copy=False) for x in self.fields]
        own = rows >= logged
        index = (np.nonzero(own)[0], rows[own] - logged)
        drawn = [x[np.where(own, 0, rows)].astype(np.float32) for x in self.fields]
        for values, field in zip(drawn, self.online.fields, strict=True):
            values[own] = field[index]
        return drawn


class Explorer:
    """Steps one environment per seed with a deterministic policy plus noise; files what happens."""

    def __init__(self, envs, policy: BoundedActor, rows: OnlineRows) -> None:
        self.envs, self.policy, self.rows = envs, policy, rows
        self.behaviour = policy.behaviour(envs.action_low, envs.action_high)

    def restart(self, env_seeds: np.ndarray) -> None:
        """Fresh environments from `env_seeds` [S, 1]."""
        self.obs = self.envs.reset(env_seeds)
        self.behaviour.reset(np.ones(env_seeds.shape, bool))

    def step(self, count: int, std: float, rngs: Sequence[np.random.Generator]) -> None:
        """`count` steps of the policy as it is now; noise of `std` half widths of the bounds."""
        envs, low, high = self.envs, self.envs.action_low, self.envs.action_high
        std = std * (high - low) / 2
        self.behaviour.refresh(self.policy)
        for _ in range(count):
            mode, _ = self.behaviour.act(self.obs)
            action = clip(mode + std * normal(rngs, *mode.shape[1:]), low, high)
            after = envs.step(action)
            self.behaviour.reset(after.terminated | after.truncated)
            row = (self.obs, action, after.reward, after.final_obs, after.terminated)
            self.rows.append(*(x[:, 0] for x in row))
            self.obs = after.obs
