"""ReLOAD where all is known: `python -m benchmarks.tabular [--sampled] [--out results/tabular]`.

Without a flag it writes what is computed exactly, in seconds: bilinear.csv (a game x y),
two_state.csv and grid.csv (constrained processes, by `reload.solve`), and trajectories.png. With
--sampled it trains on sampled episodes of the two states, 10 seeds, in minutes, and writes
sampled.csv alone. README.md is made of whatever rows there are.

A method has an optimism b of the policy and one of the multiplier; 0 and 0 is gradient
descent-ascent. `converged` is the iteration from which the last iterate stays near the optimum.
"""

import argparse
import csv
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.sampled_paradox import sampled_rows
from rlsuite.algorithms.constrained.reload import optimistic, solve
from rlsuite.envs.constrained.tabular import TabularCMDP, evaluate, grid, optimum, two_state
from rlsuite.evidence.tables.tabular import NONE

Rows = list[dict[str, object]]
OUT = Path(__file__).parents[1] / "results" / "tabular"
METHODS = {  # b of the policy, b of the multiplier, whether the policy foresees that alone
    "descent-ascent": (0, 0, False),
    "ReLOAD": (1, 1, False),
    "ReLOAD, multiplier foreseen": (1, 1, True),
    "policy alone": (1, 0, False),
    "multiplier alone": (0, 1, False),
}
ITERATIONS = 5000
LATE = ITERATIONS // 5  # the last fifth, by which oscillation is judged


def solved(cmdp: TabularCMDP, players: list, start: float, predicted: bool) -> tuple:
    """(v, mu) of `ITERATIONS` iterations of each of `players` (eta, eta_mu, b, b of mu)."""
    logits = 0.1 * np.random.default_rng(0).standard_normal(cmdp.reward.shape[1:])
    every = torch.from_numpy(logits).expand(len(players), *logits.shape)
    price = torch.full((len(players), 1), start, dtype=torch.float64)
    given = every, price, torch.tensor(players, dtype=torch.float64), ITERATIONS, predicted
    return solve(partial(evaluate, cmdp), cmdp.threshold, *given)


def converged(wrong: Tensor) -> int | None:
    """The iteration from which nothing is wrong; None: something is at the end."""
    late = wrong.nonzero()
    first = int(late[-1]) + 1 if len(late) else 0
    return None if first == len(wrong) else first


def bilinear() -> Rows:
    """min over x, max over y of x y from (1, 1): norms after 500 steps."""
    rows = []
    for rate in (0.05, 0.1, 0.2, 0.3):
        for name, b in (("descent-ascent", 0), ("optimism", 1)):
            x, y, norms = 1.0, 1.0, []
            before = torch.full((2,), math.nan, dtype=torch.float64)
            for _ in range(500):
                slopes = torch.tensor([y, x], dtype=torch.float64)
                down, up = optimistic(slopes, before, b).tolist()
                x, y, before = x - rate * down, y + rate * up, slopes
                norms.append(math.hypot(x, y))
            near = [i for i, norm in enumerate(norms) if norm < 0.01]
            row = {"method": name, "step_size": rate, "last_norm": f"{norms[-1]:.3g}"}
            rows.append(row | {"first_below_0.01": near[0] if near else None})
    return rows


def two_states() -> tuple[Rows, dict]:
    """Rows, and {(method, step size): v [K, 2]}; the optimum is v = (1/2, 1/2) with mu = 1."""
    rows, paths, rates = [], {}, (1.0, 0.5, 0.2)
    for name, (policys, own, predicted) in METHODS.items():
        players = [(rate, rate, policys, own) for rate in rates]
        v, mu = solved(two_state(), players, 0.5, predicted)
        for i, rate in enumerate(rates):
            paths[name, rate] = v[:, i]
            late = v[-LATE:, i, 1]
            rows.append(
                {
                    "method": name,
                    "step_size": rate,
                    "last_reward": f"{v[-1, i, 0]:.4f}",
                    "last_u": f"{late[-1]:.4f}",
                    "last_multiplier": f"{mu[-1, i, 0]:.4f}",
                    "late_std_of_u": f"{late.std():.3f}",
                    "late_share_infeasible": f"{(late < 0.49).double().mean():.2f}",
                    "converged": converged(((v[:, i] - 0.5).abs() >= 0.01).any(-1)),
                }
            )
    return rows, paths


def grids() -> Rows:
    """The 5 x 7 grid beside its linear program, (eta, eta_mu) = (4, 10), (10, 10), (4, 2)."""
    cmdp = grid()
    scale, (best, price, pi) = 1 - cmdp.discount, optimum(cmdp)
    paid = -(evaluate(cmdp, pi[None])[0][0, 1] / scale).item()
    best = best / scale
    rows = [{"method": "linear program", "last_return": f"{best:.3f}", "last_cost": f"{paid:.3f}",
             "last_multiplier": f"{price.item():.3f}"}]  # fmt: skip
    rates = ((4, 10), (10, 10), (4, 2))
    for name in ("descent-ascent", "ReLOAD", "ReLOAD, multiplier foreseen"):
        policys, own, predicted = METHODS[name]
        v, mu = solved(cmdp, [(*rate, policys, own) for rate in rates], 0.0, predicted)
        for i, rate in enumerate(rates):
            value, cost = v[:, i, 0] / scale, -v[:, i, 1] / scale
            wrong = ((value - best).abs() >= 0.02) | ((cost - paid).abs() >= 0.01)
            late = cost[-LATE:]
            rows.append(
                {
                    "method": name,
                    "step_sizes": f"{rate[0]} and {rate[1]}",
                    "last_return": f"{value[-1]:.3f}",
                    "last_cost": f"{cost[-1]:.3f}",
                    "last_multiplier": f"{mu[-1, i, 0]:.3f}",
                    "late_std_of_cost": f"{late.std():.3f}",
                    "late_share_over": f"{(late > 0.305).double().mean():.2f}",
                    "converged": converged(wrong),
                }
            )
    return rows


def picture(paths: dict, file: Path) -> None:
    """Descent-ascent and ReLOAD on the two states with a step size of 0.5."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (plane, time) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, colour in (("descent-ascent", "#E69F00"), ("ReLOAD", "#CC79A7")):
        v = paths[name, 0.5][:600].numpy()
        plane.plot(v[:, 0], v[:, 1], color=colour, linewidth=0.9, label=name)
        time.plot(v[:, 1], color=colour, linewidth=1.2, label=name)
    plane.plot([0.5], [0.5], "o", color="black", label="optimum")
    plane.set(xlabel="value of the reward", ylabel="value u of the constraint")
    time.axhline(0.5, color="black", linestyle="--", linewidth=0.8)
    time.set(xlabel="iteration", ylabel="value u of the constraint, at least 1/2")
    plane.legend(frameon=False)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


# ------------------------------------------------------------------------------------- files

TITLES = {
    "bilinear": "A game x y, 500 steps",
    "two_state": "Two states, exactly: optimum reward 0.5, u 0.5, multiplier 1",
    "grid": "A grid of 5 x 7 cells, exactly: cost at most 0.3",
    "sampled": "Two states, sampled, with networks: mean and standard deviation over seeds",
}
HEAD = """# ReLOAD where all is known

Made by `python -m benchmarks.tabular` (exact, seconds) and `python -m benchmarks.tabular --sampled`
(minutes). Late is the last fifth of the iterations; `converged` is the iteration from which the
last iterate stays within 0.01 of the optimum (return on the grid: 0.02).

![Descent-ascent circles the optimum, ReLOAD ends in it](trajectories.png)
"""


def write(rows: Rows, file: Path) -> None:
    names = list(max(rows, key=len))
    with open(file, "w", newline="") as stream:
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def page(folder: Path) -> str:
    """README.md, of the CSV files in `folder`."""
    parts = [HEAD]
    for name, title in TITLES.items():
        file = folder / f"{name}.csv"
        if not file.exists():
            continue
        with open(file, newline="") as stream:
            header, *rows = csv.reader(stream)
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
        table = "\n".join(f"| {' | '.join(cell or NONE for cell in line)} |" for line in lines)
        parts.append(f"## {title}\n\n{table}\n")
    return "\n".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder; default: {OUT.name}")
    parser.add_argument("--sampled", action="store_true", help="train on sampled episodes instead")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.sampled:
        write(sampled_rows(), options.out / "sampled.csv")
    else:
        rows, paths = two_states()
        for name, found in (("bilinear", bilinear()), ("two_state", rows), ("grid", grids())):
            write(found, options.out / f"{name}.csv")
        picture(paths, options.out / "trajectories.png")
    (options.out / "README.md").write_text(page(options.out), encoding="utf-8")


if __name__ == "__main__":
    main()
