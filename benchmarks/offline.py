"""How fast TD3+BC is: many seeds at once, against a plain PyTorch loop, CORL and d3rlpy.

    python -m benchmarks.offline                  this suite and a plain loop
    python -m benchmarks.offline --corl FILE      CORL, too: its algorithms/offline/td3_bc.py
    python -m benchmarks.offline --quick          a smoke test; writes nothing

A quarter of an hour on an idle machine with two cores; d3rlpy takes part where it is installed. As
in speed.py, every contestant is a process of its own, built, compiled and warmed up
before anything is measured, and asleep while another one works; they take turns, and a ratio is
taken within one round. offline_plan.py says who competes. Writes to results/speed:
offline.json (every round), offline.md and offline.csv (tables).
"""

import argparse
import csv
import hashlib
import importlib.util
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.offline_plan import (
    ABOUT,
    QUICK,
    QUOTED,
    QUOTED_CORL,
    TASK,
    Plan,
    contestants,
    ours_names,
    questions,
)
from benchmarks.plans import CORES, TWO_THREADS
from benchmarks.speed import Worker, measure
from benchmarks.tables import rates, ratio, ratio_row, table
from rlsuite.runs import machine

HERE = Path(__file__).parent
FOLDER = HERE.parent / "results" / "speed"
KINDS = ("data", "learning")  # of work, as td3_bc logs them
COMPILED_SEEDS = 4  # whose compilation is timed

# ------------------------------------------------------------------------------ the measurement


def compile_seconds(plan: Plan) -> dict[str, float]:
    """Our first iteration with an empty cache and from a full one, less an ordinary iteration."""
    compiled = ours_names(COMPILED_SEEDS, TWO_THREADS)[-1]
    (spec,) = contestants(plan, [])[compiled]
    found = {"seeds": COMPILED_SEEDS}
    with tempfile.TemporaryDirectory() as cache:
        for state in ("cold", "cached"):
            worker = Worker(spec, TORCHINDUCTOR_CACHE_DIR=cache)
            worker.wait_until_ready()
            worker.close()
            found[state] = worker.ready["first_iteration"] - worker.ready["second_iteration"]
    return found


# ------------------------------------------------------------------------------------- the tables

RATIO_HEADER = ("TD3+BC", "against", "Ratio", "Range", "Target")
RATE_HEADER = ("Contestant", "steps/s", "Range", "ms", *KINDS)


def rate_row(measurement: dict) -> tuple[str, ...]:
    """Steps x seeds per second, and milliseconds of a gradient step of a process by kind."""
    values = rates(measurement)
    answers = [a for r in measurement["rounds"] for a in r["processes"]]
    steps = sum(a["iterations"] for a in answers) * measurement["processes"][0]["steps"]
    whole = 1e3 * sum(a["seconds"] for a in answers) / steps
    parts = [1e3 * sum(a["profile"].get(k, 0.0) for a in answers) / steps for k in KINDS]
    cells = [f"{part:.2f}" for part in parts] if any(parts) else [""] * len(KINDS)
    spread = f"{min(values):,.0f}-{max(values):,.0f}"
    return measurement["name"], f"{median(values):,.0f}", spread, f"{whole:.2f}", *cells


def quoted(answers: list[dict]) -> str:
    """The table of peers in JAX beside ours, which are `answers` to how often CORL's rate we have.

    A ratio of theirs is a range, because CORL's figure is one.
    """
    rows = []
    for peer, (one_core, two_cores) in QUOTED.items():
        low, high = two_cores / QUOTED_CORL[1], two_cores / QUOTED_CORL[0]
        cells = [f"{one_core or ''}", f"{two_cores}", f"{low:.1f}-{high:.1f}"]
        for value in (answer["median"] for answer in answers):
            place = "behind" if value < low else "ahead" if value > high else "level"
            cells.append(f"{value:.1f}, {place}")
        rows.append((peer, *cells))
    header = ("Peer", "1 core", "2 cores", "times CORL there")
    return table((*header, *(f"ours here, {answer['ours']}" for answer in answers)), rows)


def markdown(results: dict) -> str:
    """The page results/speed/offline.md, from what offline.json holds."""
    hardware, compiling = results["hardware"], results["compile_seconds"]
    contents = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    beside_corl = [
        answer
        for answer in results["ratios"]
        if answer["against"].startswith("CORL") and TWO_THREADS in answer["ours"]
    ]
    parts = [
        "# Speed of TD3+BC",
        f"{hardware['cpu']}, {len(results['cores'])} cores used of {hardware['cores']}; "
        f"{contents}. `{results['command']}`, {results['rounds']} rounds, "
        f"{results['wall_seconds'] / 60:.1f} minutes.",
        results["about"],
        "## Ratios of steps per second\n\nMedian and range over the rounds. Of ours, the faster of "
        "eager and compiled is named; on two threads, of a peer the faster of 1 and 2 threads.",
        table(RATIO_HEADER, [ratio_row(answer)[1:] for answer in results["ratios"]]),
        "## Steps per second\n\nAbsolute figures depend on the machine. Milliseconds are those of "
        "one gradient step of one process, for all of its seeds.",
        table(RATE_HEADER, [rate_row(m) for m in results["measurements"]]),
        "## Peers in JAX: not measured here\n\nSteps per second of one seed at the same shapes, as "
        "quoted from another run (two cores of an AMD EPYC, torch 2.13.0, jax 0.10.2), in which "
        f"CORL took {QUOTED_CORL[0]} to {QUOTED_CORL[1]} on two threads. Where CORL was measured "
        "here, too, the last columns say how often its rate ours is, and where that places ours.",
        quoted(beside_corl),
    ]
    if compiling:
        parts.append(
            f"Compiling the update of {compiling['seeds']} seeds took {compiling['cold']:.0f} s, "
            f"and loading it from the cache {compiling['cached']:.0f} s; no rate includes this."
        )
    for measurement in results["measurements"]:
        for reason in (x for ready in measurement["ready"] for x in ready.get("failed", ())):
            parts.append(f"{measurement['name']} was measured, but {reason}.")
    return "\n\n".join(parts) + "\n"


# ------------------------------------------------------------------------------------ the command


def peer_versions(corl: Path | None) -> dict[str, str]:
    """{peer: version} of the others that can take part; says what to type where one cannot.

    Raises ValueError where `corl` is not CORL's file.
    """
    found = {}
    if corl is None:
        print("CORL is not measured; to compare, fetch algorithms/offline/td3_bc.py of CORL and")
        print("type: python -m benchmarks.offline --corl FILE", flush=True)
    else:
        if not corl.is_file() or "class TD3_BC" not in (text := corl.read_text(encoding="utf-8")):
            raise ValueError(f"{corl} is not CORL's algorithms/offline/td3_bc.py; name that file")
        found["corl"] = f"sha256 {hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if importlib.util.find_spec("d3rlpy") is None:
        print("d3rlpy is not installed, so it is not measured; to compare, type, in an environment")
        print("of its own: pip install d3rlpy && pip install 'gymnasium>=1.2'", flush=True)
    else:
        found["d3rlpy"] = version("d3rlpy")
    return found


def run(plan: Plan, others: dict[str, str], compile_too: bool) -> dict:
    """Measure us, the plain loop and `others`; what results/speed/offline.json holds."""
    start, peers = perf_counter(), ["plain", *others]
    compiling = compile_seconds(plan) if compile_too else None
    measurements = measure(TASK, contestants(plan, peers), plan.rounds, plan.seconds)
    named = {m["name"]: m for m in measurements}
    return {
        "command": "python -m benchmarks.offline" + " --corl FILE" * ("corl" in others),
        "about": ABOUT,
        "commit": machine.git_commit(),
        "versions": machine.versions() | others,
        "hardware": machine.hardware(),
        "cores": CORES,
        "rounds": plan.rounds,
        "seconds_per_turn": plan.seconds,
        "wall_seconds": perf_counter() - start,
        "compile_seconds": compiling,
        "ratios": [
            ratio([named[x] for x in ours], [named[x] for x in against], target)
            for ours, against, target in questions(plan, peers)
        ],
        "measurements": measurements,
    }


def write(results: dict) -> None:
    """The three files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    page = FOLDER / "offline"
    page.with_suffix(".json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    page.with_suffix(".md").write_text(markdown(results), encoding="utf-8")
    with page.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        rows = (ratio_row(answer)[1:] for answer in results["ratios"])
        csv.writer(file).writerows([RATIO_HEADER, *rows])


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="How fast TD3+BC is, beside its peers.")
    parser.add_argument("--corl", type=Path, metavar="FILE", help="CORL's td3_bc.py")
    parser.add_argument("--quick", action="store_true", help="a smoke test; writes nothing")
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else Plan()
    try:
        others = peer_versions(options.corl)
    except ValueError as error:
        parser.error(str(error))
    if options.corl:
        os.environ["CORL_FILE"] = str(options.corl.resolve())
    results = run(plan, others, compile_too=not options.quick)
    if not options.quick:
        write(results)
    print(markdown(results), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
