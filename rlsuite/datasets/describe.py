"""What is in a set: returns, ends, saturation, and how good (TQ) and how varied (SACo) it is.

TQ and SACo are those of Schweighofer et al. 2021, arXiv 2111.04714. TQ is the mean return of the
complete episodes, 0 for a random policy and 1 for an expert: in the paper the best policy of one
online run, here the references of `scores`. SACo is the number of distinct state-action pairs, in
proportion to that of a reference set: in the paper the run's replay buffer. Distinct are pairs in
different cells of a grid with 5 equally spaced edges per axis between the reference's extremes, as
for the paper's table of D4RL; counted exactly, not by HyperLogLog; on 100,000 rows spread evenly
over each set, not its first ones, because a set may hold one policy after the other.
"""

import textwrap

import numpy as np

from rlsuite.datasets.scores import reference as score_reference
from rlsuite.datasets.scores import why_none
from rlsuite.datasets.transitions import DatasetError, Transitions, printable

EDGES = 5
ROWS = 100_000
BEYOND = (0.9, 0.99, 1 - 1e-3)  # half widths from the centre of the box; the last is its end
PART = 1_000_000  # rows at a time, where a set may be larger than memory
WIDTH = 100  # columns of text


def describe(data: Transitions, reference: Transitions | None = None) -> dict:
    """Everything that `text` shows, in JSON's types; None where it does not apply.

    Raises DatasetError if `reference` has other observations or actions.
    """
    bounds, returns = data.bounds(), data.episode_returns()
    lengths = bounds[:, 1] - bounds[:, 0]
    last = bounds[:, 1] - 1
    terminated, truncated = data.terminated[last], data.truncated[last]
    complete = terminated | truncated
    # Where rows at a time limit are dropped, nothing tells a whole episode from an unfinished one
    counted = np.ones_like(complete) if data.metadata["timeouts"] == "dropped" else complete
    return {
        "name": data.metadata["name"],
        "task": data.metadata["task"],
        "source": data.metadata["source"],
        "timeouts": data.metadata["timeouts"],
        "transitions": len(data),
        "episodes": len(bounds),
        "obs_size": data.obs_size,
        "action_size": None if data.discrete else data.action.shape[1],
        "returns": _spread(returns),
        "lengths": _spread(lengths),
        "terminated": int(terminated.sum()),
        "truncated": int((truncated & ~terminated).sum()),
        "open": int((~complete).sum()),
        "saturation": None if data.discrete else saturation(data),
        "entropy": data.metadata.get("entropy"),
        "remarks": data.metadata.get("remarks", []),
        "score": _score(data, returns[counted]),
        "coverage": coverage(data, reference),
    }


def saturation(data: Transitions) -> dict[str, float]:
    """Shares of action components at an end of the box: `all`, and `max` over dimensions.

    `0.9` and `0.99`: shares of those further than that from the centre, in half widths.
    """
    low, high = (np.asarray(data.metadata[key]) for key in ("action_low", "action_high"))
    hits = np.zeros((len(BEYOND), data.action.shape[1]))
    for start in range(0, len(data), PART):
        part = data.action[start : start + PART]
        for row, share in enumerate(BEYOND):
            margin = (1 - share) * (high - low) / 2
            hits[row] += ((part <= low + margin) | (part >= high - margin)).sum(0)
    *inner, ends = hits / len(data)
    named = dict(zip(map(str, BEYOND), (float(x.mean()) for x in inner), strict=False))
    return {"all": float(ends.mean()), "max": float(ends.max()), **named}


def coverage(data: Transitions, reference: Transitions | None) -> dict:
    """Distinct state-action pairs of `data`, of `reference`, and their ratio SACo."""
    if reference is None:
        edges = _edges(data)
        return {"distinct": distinct(data, edges), "reference": None, "saco": None}
    if _axes(data) != _axes(reference):
        names = [x.metadata["name"] for x in (data, reference)]
        raise DatasetError(f"{names[1]} is of another task than {names[0]}; name a set of the same")
    edges = _edges(reference)
    ours, theirs = distinct(data, edges), distinct(reference, edges)
    return {
        "distinct": ours,
        "reference": reference.metadata["name"],
        "reference_distinct": theirs,
        "saco": ours / theirs,
    }


def distinct(data: Transitions, edges: np.ndarray) -> int:
    """Cells of the grid `edges` [EDGES, axes] that hold one of ROWS evenly spread rows of `data`.

    A cell is a row of small integers: 0 is below the first edge, EDGES from the last one up. A
    discrete action is its own cell.
    """
    values, actions = _sample(data)
    cells = [np.digitize(values[:, k], edges[:, k]) for k in range(values.shape[1])]
    rows = np.stack([*cells, *actions], 1).astype(np.uint16)
    return len(np.unique(rows, axis=0))


def _edges(data: Transitions) -> np.ndarray:
    values, _ = _sample(data)
    return np.linspace(values.min(0), values.max(0), EDGES)


def _sample(data: Transitions) -> tuple[np.ndarray, list[np.ndarray]]:
    """Of ROWS rows: the continuous axes [rows, axes], and a list of the discrete one, if any."""
    rows = np.linspace(0, len(data) - 1, min(len(data), ROWS)).astype(np.int64)
    if data.discrete:
        return data.obs[rows], [data.action[rows]]
    return np.concatenate([data.obs[rows], data.action[rows]], 1), []


def _axes(data: Transitions) -> tuple:
    return data.obs_size, data.discrete, data.action.shape[1:]


def _spread(values: np.ndarray) -> dict[str, float]:
    points = np.percentile(values, [0, 25, 50, 75, 100])
    named = zip(("min", "lower", "median", "upper", "max"), points.tolist(), strict=True)
    return {"mean": float(values.mean()), "std": float(values.std()), **dict(named)}


def _score(data: Transitions, returns: np.ndarray) -> dict | None:
    """Normalised score in percent and TQ of the mean of `returns`, and by which references."""
    found = score_reference(data.metadata["task"] or data.metadata["name"])
    if found is None or len(returns) == 0:
        return None
    score = float(found.score(returns.mean()))
    return {"score": score, "tq": score / 100, "reference": found.text}


# ------------------------------------------------------------------------------------ as text


def text(metadata: dict) -> str:
    """What `describe` found, for a terminal: one line per fact, name first."""
    size = metadata["action_size"]
    kind = "discrete actions" if size is None else f"{size}-dimensional actions"
    rows = [
        (
            "task",
            f"{metadata['task'] or 'not declared'}: {metadata['obs_size']} observations, {kind}",
        ),
        ("source", metadata["source"]),
        ("transitions", f"{metadata['transitions']:,} in {metadata['episodes']:,} episodes"),
        ("return", _quartiles(metadata["returns"], ",.1f")),
        ("length", _quartiles(metadata["lengths"], ",.0f")),
        ("ends", _ends(metadata)),
    ]
    if metadata["saturation"] is not None:
        share = "{all:.1%} of action components at an end of the box, {max:.1%} in one dimension"
        rows.append(("saturation", share.format(**metadata["saturation"])))
        inner = [f"{metadata['saturation'][str(each)]:.1%} beyond {each}" for each in BEYOND[:-1]]
        rows.append(("", f"{', '.join(inner)} of the way from the centre to an end"))
    if metadata["entropy"] is not None:
        nats = f"{metadata['entropy']:.3f} nats per dimension of the actions' density"
        rows.append(("entropy", f"{nats} (uniform in the box: {np.log(2):.3f})"))
    score = metadata["score"]
    if score is None:
        rows.append(("score", f"none: {why_none(metadata['task'] or metadata['name'])}"))
    else:
        rows.append(("score", f"{score['score']:.1f} (TQ {score['tq']:.3f}) of the mean return"))
        rows.append(("", f"0 and 100: {score['reference']}"))
    rows.append(("SACo", _saco(metadata["coverage"])))
    rows += [("remark", remark) for remark in metadata["remarks"]]
    return "\n".join(
        [printable(metadata["name"]), *(_wrapped(f"  {name:12} {value}") for name, value in rows)]
    )


def _wrapped(line: str) -> str:
    wrapping = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(printable(line), WIDTH, subsequent_indent=" " * 15, **wrapping)


def _quartiles(spread: dict[str, float], form: str) -> str:
    mean, std, *points = (format(spread[key], form) for key in spread)
    return f"{mean} ± {std}; min, quartiles, max: {' '.join(points)}"


def _ends(metadata: dict) -> str:
    counts = f"{metadata['terminated']:,} terminated, {metadata['truncated']:,} truncated, "
    if metadata["timeouts"] == "dropped":
        return counts + f"{metadata['open']:,} cut by a time limit (that row is dropped) or open"
    return counts + f"{metadata['open']:,} open"


def _saco(coverage: dict) -> str:
    count = f"{coverage['distinct']:,} distinct state-action cells"
    if coverage["saco"] is None:
        return f"{count}; for the ratio name a set to compare with: --reference NAME"
    theirs = f"{coverage['reference_distinct']:,} of {coverage['reference']}"
    return f"{coverage['saco']:.3f}: {count}, {theirs}"
