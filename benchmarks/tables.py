"""What the speed benchmark concludes: ratios within rounds, and the tables that show them."""

from statistics import median

from benchmarks.plans import TITLES, Plan, questions

# -------------------------------------------------------------------------------- the conclusions


def rates(measurement: dict) -> list[float]:
    """Steps per second of each round."""
    return [r["steps_per_second"] for r in measurement["rounds"]]


def ratio(ours: list[dict], against: list[dict], target: float) -> dict:
    """The best (by median rate) of `ours` over the best of `against`, round by round."""
    a, b = (max(group, key=lambda m: median(rates(m))) for group in (ours, against))
    values = [x / y for x, y in zip(rates(a), rates(b), strict=True)]
    return {
        "task": a["task"],
        "ours": a["name"],
        "against": b["name"],
        "per_round": values,
        "median": median(values),
        "lowest": min(values),
        "highest": max(values),
        "target": target,
    }


def ratios(measurements: list[dict], plan: Plan) -> list[dict]:
    """The answers to all of the plan's questions whose contestants were measured."""
    found = {}
    for task in plan.tasks:
        named = {m["name"]: m for m in measurements if m["task"] == task}
        for ours, against, target in questions(plan, task):
            if all(name in named for name in (*ours, *against)):
                groups = ([named[name] for name in names] for names in (ours, against))
                answer = ratio(*groups, target)
                found[task, answer["ours"], answer["against"]] = answer  # once, with its target
    return list(found.values())


# ------------------------------------------------------------------------------------- the tables


def ratio_header(algorithm: str) -> tuple[str, ...]:
    return "Task", TITLES[algorithm], "against", "Ratio", "Range", "Target"


def ratio_row(answer: dict) -> tuple[str, ...]:
    digits = 2 if answer["median"] < 2 else 1
    middle, low, high = (f"{answer[k]:.{digits}f}" for k in ("median", "lowest", "highest"))
    reached = "reached" if answer["median"] >= answer["target"] else "missed"
    target = f"{answer['target']:g}, {reached}" if answer["target"] else ""
    return answer["task"], answer["ours"], answer["against"], middle, f"{low}-{high}", target


def rate_row(measurement: dict) -> tuple[str, ...]:
    """Steps/s over the rounds, and milliseconds of an iteration by kind of work."""
    values = rates(measurement)
    answers = [a for r in measurement["rounds"] for a in r["processes"]]
    iterations = sum(a["iterations"] for a in answers)
    whole = 1e3 * sum(a["seconds"] for a in answers) / iterations
    kinds = ("physics", "inference", "learning")
    parts = [1e3 * sum(a["profile"].get(k, 0.0) for a in answers) / iterations for k in kinds]
    cells = [f"{whole:.0f}", *(f"{part:.0f}" for part in parts)] if any(parts) else [""] * 4
    spread = f"{min(values):,.0f}-{max(values):,.0f}"
    return measurement["task"], measurement["name"], f"{median(values):,.0f}", spread, *cells


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown(results: dict) -> str:
    """The page results/speed/ALGORITHM.md, from what ALGORITHM.json holds."""
    algorithm, hardware = results["algorithm"], results["hardware"]
    contents = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    parts = [
        f"# Speed of {TITLES[algorithm]}",
        f"{hardware['cpu']}, {len(results['cores'])} cores used of {hardware['cores']}; "
        f"{contents}. `{results['command']}`, {results['rounds']} rounds, "
        f"{results['wall_seconds'] / 60:.1f} minutes.",
        results["about"],
        "## Ratios of steps per second\n\nMedian and range over the rounds; where several of "
        "our settings compete, the fastest is named.",
        table(ratio_header(algorithm), [ratio_row(answer) for answer in results["ratios"]]),
        "## Steps per second\n\nAbsolute figures depend on the machine. Milliseconds are those of "
        "one iteration of one process.",
        table(
            ("Task", "Contestant", "steps/s", "Range", "ms", "physics", "inference", "learning"),
            [rate_row(m) for m in results["measurements"]],
        ),
    ]
    if compiling := results["compile_seconds"]:
        parts.append(
            f"Compiling the update of {compiling['seeds']} seeds took {compiling['cold']:.0f} s, "
            f"and loading it from the cache {compiling['cached']:.0f} s; no rate includes this."
        )
    return "\n\n".join(parts) + "\n"
