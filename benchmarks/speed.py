"""How fast the suite is, against its peers and against the physics alone.

    python -m benchmarks.speed                     PPO: ten minutes, on an idle machine
    python -m benchmarks.speed trpo mdpo fixpo     these three: about six minutes
    python -m benchmarks.speed trpo --quick        a smoke test; writes nothing

The first time, compiling adds some minutes. Every contestant is a process of its own, built,
compiled and warmed up before anything is measured, and asleep while another one works. They take
turns, A B C A B C ..., so what slows the machine down slows all of them down: a ratio is taken
within one round, and its median and range over the rounds are what to look at. Two cores are used,
however many there are. plans.py says who competes. Writes, for each algorithm named,
results/speed/ALGORITHM.json (every round), ALGORITHM.md and ALGORITHM.csv (tables).
"""

import csv
import difflib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

from benchmarks.plans import (
    CORES,
    PEER_PACKAGES,
    PLANS,
    Contestants,
    Plan,
    contestants,
    manifest,
    ours_name,
    ppo_contestants,
    quick,
)
from benchmarks.tables import markdown, ratio_header, ratio_row, ratios
from rlsuite.runs import machine

HERE = Path(__file__).parent
FOLDER = HERE.parent / "results" / "speed"

# ------------------------------------------------------------------------------ the measurement


class Worker:
    """A contestant's process, or one of its processes; its `spec` may name another module."""

    def __init__(self, spec: dict, **environment: str) -> None:
        module = spec.get("module", "benchmarks.contestants")
        command = [sys.executable, "-m", module, json.dumps(spec)]
        self._spec, pipe = spec, subprocess.PIPE
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            **{"stdin": pipe, "stdout": pipe, "stderr": self._complaints, "text": True},
            env=os.environ | environment,
            cwd=HERE.parent,
        )

    def answer(self) -> dict:
        """Raises RuntimeError if the process died instead."""
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._complaints.seek(0)
            raise RuntimeError(
                f"{self._spec} ended with status {status}: {self._complaints.read()[-2000:]}"
            )
        return json.loads(line)

    def wait_until_ready(self) -> None:
        self.ready = self.answer()

    def order(self, seconds: float) -> None:
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._complaints.close()


def start(specs: list[dict]) -> list[Worker]:
    """Processes that are ready. They get so in order, two at a time: where several have the same
    update, the first compiles it and the others find it in the cache."""
    workers = []
    for spec in specs:
        if len(workers) > 1:
            workers[-2].wait_until_ready()
        workers.append(Worker(spec))
    for worker in workers[-2:]:
        worker.wait_until_ready()
    return workers


def measure(task: str, contestants: Contestants, rounds: int, seconds: float) -> list[dict]:
    """What each contestant is and did, with all its rounds."""
    workers = start([spec for specs in contestants.values() for spec in specs])
    waiting, teams, found = iter(workers), {}, {}
    for name, specs in contestants.items():
        teams[name] = [next(waiting) for _ in specs]
        ready = [worker.ready for worker in teams[name]]
        manifest = {"task": task, "name": name, "processes": specs, "ready": ready}
        found[name] = manifest | {"rounds": []}
    for number in range(rounds):
        print(f"{task}, round {number + 1} of {rounds}", flush=True)
        for name, team in teams.items():
            for worker in team:
                worker.order(seconds)
            answers = [worker.answer() for worker in team]
            rate = sum(a["steps"] / a["seconds"] for a in answers)
            found[name]["rounds"].append({"steps_per_second": rate, "processes": answers})
            print(f"  {name:40s} {rate:9,.0f} steps/s", flush=True)
    for worker in workers:
        worker.close()
    return list(found.values())


def compile_seconds(seeds: int) -> dict[str, float]:
    """PPO's first iteration with an empty cache and from a full one, less an ordinary iteration."""
    (spec,) = ppo_contestants("HalfCheetah-v4", (seeds,), seeds)[ours_name(seeds, 8)]
    found = {"seeds": seeds}
    with tempfile.TemporaryDirectory() as cache:
        for state in ("cold", "cached"):
            worker = Worker(spec, TORCHINDUCTOR_CACHE_DIR=cache)
            worker.wait_until_ready()
            worker.close()
            ready = worker.ready
            found[state] = ready["first_iteration"] - ready["second_iteration"]
    return found


# ------------------------------------------------------------------------------------ the command


def peer_versions(algorithm: str) -> dict[str, str]:
    """What the algorithm's peer needs, if all of it is installed; otherwise says what to type."""
    packages = PEER_PACKAGES.get(algorithm, ())
    missing = [p for p in packages if importlib.util.find_spec(p.replace("-", "_")) is None]
    if missing:
        print(f"{' and '.join(missing)} missing, so ours is measured alone; to compare, type:")
        print(f"pip install {' '.join(missing)}", flush=True)
        return {}
    return {package: version(package) for package in packages}


def run(plan: Plan, compile_too: bool) -> dict:
    """Measure everything; what results/speed/ALGORITHM.json holds."""
    start, peers = perf_counter(), peer_versions(plan.algorithm)
    compiling = compile_seconds(plan.many) if compile_too else None
    measurements = []
    for task in plan.tasks:
        everyone = contestants(plan, task, with_peer=bool(peers))
        measurements += measure(task, everyone, plan.rounds, plan.seconds)
    compiled = any(ready.get("compiled") for m in measurements for ready in m["ready"])
    return {
        "algorithm": plan.algorithm,
        "command": f"python -m benchmarks.speed {plan.algorithm}",
        "about": manifest(plan, compiled),
        "commit": machine.git_commit(),
        "versions": machine.versions() | peers,
        "hardware": machine.hardware(),
        "cores": CORES,
        "rounds": plan.rounds,
        "seconds_per_turn": plan.seconds,
        "wall_seconds": perf_counter() - start,
        "compile_seconds": compiling,
        "ratios": ratios(measurements, plan),
        "measurements": measurements,
    }


def write(results: dict) -> None:
    """The three files of an algorithm."""
    algorithm, page = results["algorithm"], FOLDER / results["algorithm"]
    FOLDER.mkdir(parents=True, exist_ok=True)
    page.with_suffix(".json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    page.with_suffix(".md").write_text(markdown(results), encoding="utf-8")
    with page.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        rows = map(ratio_row, results["ratios"])
        csv.writer(file).writerows([ratio_header(algorithm), *rows])


def main(arguments: list[str]) -> None:
    algorithms = [a for a in arguments if a != "--quick"] or ["ppo"]
    for name in algorithms:
        if name not in PLANS:
            near = difflib.get_close_matches(name, (*PLANS, "--quick")) or [*PLANS, "--quick"]
            sys.exit(f"{name!r} is not known to this benchmark; type one of: {', '.join(near)}")
    for name in algorithms:
        if "--quick" in arguments:
            results = run(quick(name), compile_too=False)
        else:
            results = run(PLANS[name], compile_too=name == "ppo")
            write(results)
        print(markdown(results), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
