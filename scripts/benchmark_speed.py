"""How fast PPO is, against Stable-Baselines3 and against the physics alone.

    python scripts/benchmark_speed.py            eight minutes, on an otherwise idle machine
    python scripts/benchmark_speed.py --quick    a smoke test, about a minute; writes nothing

The first time, compiling adds some minutes. Every contestant is a process of its own, built,
compiled and warmed up before anything is measured, and asleep while another one works. They take
turns, A B C A B C ..., so what slows the machine down slows all of them down: a ratio is taken
within one round, and its median and range over the rounds are what to look at. Two cores are used,
however many there are. Writes results/speed/ppo.json (every round), ppo.md and ppo.csv (tables).
"""

import csv
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter

from rlsuite.algorithms import load
from rlsuite.experiments import machine

HERE = Path(__file__).parent
FOLDER = HERE.parent / "results" / "speed"
CORES = sorted(os.sched_getaffinity(0))[:2] if hasattr(os, "sched_getaffinity") else [0, 1]
TASKS = ("Hopper-v4", "HalfCheetah-v4")
COPIES = (1, 8)  # environments per seed: 1 x 2048 and 8 x 256 steps make one iteration
ROUNDS, SECONDS = 5, 1.0  # a turn is whole iterations for at least so long
HEADER = ("Task", "PPO", "against", "Ratio", "Range", "Target")


@dataclass(frozen=True)
class Plan:
    """What is measured: `many` is how many seeds a sweep has (even), `counts` includes it."""

    tasks: tuple[str, ...] = TASKS
    counts: tuple[int, ...] = (1, 5, 10)
    many: int = 10
    rounds: int = ROUNDS
    seconds: float = SECONDS


QUICK = Plan(("HalfCheetah-v4",), (1, 2), 2, 1, 0.1)

# ---------------------------------------------------------------------------- the contestants


def shape(copies: int) -> str:
    return f"{copies}x{2048 // copies}"


def ours_name(seeds: int, copies: int, how: str = "1 thread") -> str:
    return f"{seeds} seed{'s'[: seeds > 1]}, {shape(copies)}, {how}"


def peer_name(copies: int, threads: int) -> str:
    return f"SB3, {shape(copies)}, {threads} thread{'s'[: threads > 1]}"


def envpool_name(count: int) -> str:
    return f"EnvPool alone, {count} environment{'s'[: count > 1]}"


TWO_PROCESSES, TWO_THREADS, EAGER = "2 processes of 1 core", "2 threads", "eager, 1 thread"
TWO_PEERS = "SB3 defaults, 2 runs at a time"


def own_contestants(task: str, counts: tuple[int, ...], many: int) -> dict[str, list[dict]]:
    """{name: one specification per process}."""

    def spec(seeds: int, copies: int, threads: int = 1, eager: bool = False, cores=CORES) -> dict:
        about = {"who": "ours", "task": task, "seeds": seeds, "copies": copies}
        return about | {"threads": threads, "compile": not eager, "cores": cores}

    found = {}
    for copies in COPIES:
        found[ours_name(1, copies, EAGER)] = [spec(1, copies, eager=True)]
        found |= {ours_name(s, copies): [spec(s, copies)] for s in counts}
        found[ours_name(many, copies, TWO_THREADS)] = [spec(many, copies, threads=2)]
        halves = [spec(many // 2, copies, cores=[core]) for core in CORES]
        found[ours_name(many, copies, TWO_PROCESSES)] = halves
    for count in sorted({s * n for s in counts for n in COPIES}):
        threads = max(1, min(len(CORES), count // 2))  # what the suite gives EnvPool
        about = {"who": "envpool", "task": task, "copies": count}
        found[envpool_name(count)] = [about | {"threads": threads, "cores": CORES}]
    return found


def peer_contestants(task: str) -> dict[str, list[dict]]:
    """Stable-Baselines3: at our settings with 1 and 2 threads, and two runs at its defaults."""
    config = load("ppo").Config()
    same = {
        "batch_size": 2048 // config.num_minibatches,
        "n_epochs": config.epochs,
        "learning_rate": config.learning_rate,
        "gamma": config.discount,
        "gae_lambda": config.gae_lambda,
        "clip_range": config.clip,
        "clip_range_vf": config.value_clip,
        "max_grad_norm": config.max_grad_norm,
        "policy_kwargs": {"net_arch": list(config.hidden)},
    }
    about, found = {"who": "sb3", "task": task}, {}
    for copies in COPIES:
        settings = {"settings": same | {"n_steps": 2048 // copies}, "normalize": True}
        for threads in (1, 2):
            process = about | settings | {"copies": copies, "threads": threads, "cores": CORES}
            found[peer_name(copies, threads)] = [process]
    defaults = about | {"settings": {}, "normalize": False, "copies": 1, "threads": 1}
    found[TWO_PEERS] = [defaults | {"cores": [core]} for core in CORES]
    return found


class Worker:
    """A contestant's process, or one of its processes."""

    def __init__(self, spec: dict, **environment: str) -> None:
        command = [sys.executable, str(HERE / "benchmark_contestants.py"), json.dumps(spec)]
        self._spec, pipe = spec, subprocess.PIPE
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            **{"stdin": pipe, "stdout": pipe, "stderr": self._complaints, "text": True},
            env=os.environ | environment,
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


# ------------------------------------------------------------------------------ the measurement


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


def measure(
    task: str, contestants: dict[str, list[dict]], rounds: int, seconds: float
) -> list[dict]:
    """What each contestant is and did, with all its rounds."""
    workers = start([spec for specs in contestants.values() for spec in specs])
    waiting, teams, found = iter(workers), {}, {}
    for name, specs in contestants.items():
        teams[name] = [next(waiting) for _ in specs]
        ready = [worker.ready for worker in teams[name]]
        about = {"task": task, "name": name, "processes": specs, "ready": ready}
        found[name] = about | {"rounds": []}
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
    """First iteration with an empty cache and from a full one, less an ordinary iteration."""
    name = ours_name(seeds, 8)
    (spec,) = own_contestants("HalfCheetah-v4", (seeds,), seeds)[name]
    found = {"seeds": seeds}
    with tempfile.TemporaryDirectory() as cache:
        for state in ("cold", "cached"):
            worker = Worker(spec, TORCHINDUCTOR_CACHE_DIR=cache)
            worker.wait_until_ready()
            worker.close()
            ready = worker.ready
            found[state] = ready["first_iteration"] - ready["second_iteration"]
    return found


# -------------------------------------------------------------------------------- the conclusions


def questions(counts: tuple[int, ...], many: int) -> list[tuple[list[str], list[str], float]]:
    """(ours, against, target): the best of ours against the best of the others; 0 is no target."""
    asked = []
    for copies, target in zip(COPIES, (3.0, 2.5), strict=True):
        peers = [peer_name(copies, threads) for threads in (1, 2)]
        asked.append(([ours_name(1, copies)], peers, target))
        asked.append(([ours_name(1, copies, EAGER)], peers, 0.0))
    hows = ("1 thread", TWO_THREADS, TWO_PROCESSES)
    for copies in COPIES:
        for seeds in counts:
            contestants = [ours_name(seeds, copies, how) for how in hows]
            ours = contestants if seeds == many else contestants[:1]
            asked.append((ours, [envpool_name(seeds * copies)], 0.6 if seeds == many else 0.0))
    asked += [([ours_name(many, 1, how)], [TWO_PEERS], 0.0) for how in hows]
    asked.append(([ours_name(many, 1, how) for how in hows], [TWO_PEERS], 4.0))
    return asked


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


def ratios(measurements: list[dict], counts: tuple[int, ...], many: int) -> list[dict]:
    """The answers to all questions whose contestants were measured."""
    found, tasks = {}, dict.fromkeys(m["task"] for m in measurements)
    for task in tasks:
        named = {m["name"]: m for m in measurements if m["task"] == task}
        for ours, against, target in questions(counts, many):
            if all(name in named for name in (*ours, *against)):
                groups = ([named[name] for name in names] for names in (ours, against))
                answer = ratio(*groups, target)
                found[task, answer["ours"], answer["against"]] = answer  # once, with its target
    return list(found.values())


# ------------------------------------------------------------------------------------- the tables


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
    """The page results/speed/ppo.md, from what results/speed/ppo.json holds."""
    hardware, versions = results["hardware"], results["versions"]
    contents = ", ".join(f"{name} {number}" for name, number in versions.items())
    parts = [
        "# Speed of PPO",
        f"{hardware['cpu']}, {len(results['cores'])} cores used of {hardware['cores']}; "
        f"{contents}. `python scripts/benchmark_speed.py`, {results['rounds']} rounds, "
        f"{results['wall_seconds'] / 60:.1f} minutes.",
        "64-64 networks, 2048 transitions per seed and iteration, 10 epochs of 32 minibatches; "
        "whole iterations after warm-up, environment steps of all seeds together. 8x256: 8 "
        "environments of 256 steps each. SB3 is Stable-Baselines3's PPO: at these settings with "
        "VecNormalize and the better of 1 and 2 threads, or at its defaults with one core for each "
        "of two runs. "
        "EnvPool alone: random actions, nothing else. Unless eager, our update is compiled.",
        "## Ratios of steps per second\n\nMedian and range over the rounds; where several of "
        "our settings compete, the fastest is named.",
        table(HEADER, [ratio_row(answer) for answer in results["ratios"]]),
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


# ------------------------------------------------------------------------------------ the command


def run(plan: Plan, compile_too: bool = True) -> dict:
    """Measure everything; what results/speed/ppo.json holds."""
    start = perf_counter()
    versions = machine.versions()
    peer = importlib.util.find_spec("stable_baselines3") is not None
    if peer:
        versions["stable-baselines3"] = version("stable-baselines3")
    else:
        print("Stable-Baselines3 is missing, so ours is measured alone; to compare, type:")
        print("pip install stable-baselines3")
    compiling = compile_seconds(plan.many) if compile_too else None
    measurements = []
    for task in plan.tasks:
        contestants = own_contestants(task, plan.counts, plan.many)
        contestants |= peer_contestants(task) if peer else {}
        measurements += measure(task, contestants, plan.rounds, plan.seconds)
    return {
        "commit": machine.git_commit(),
        "versions": versions,
        "hardware": machine.hardware(),
        "cores": CORES,
        "rounds": plan.rounds,
        "seconds_per_turn": plan.seconds,
        "wall_seconds": perf_counter() - start,
        "compile_seconds": compiling,
        "ratios": ratios(measurements, plan.counts, plan.many),
        "measurements": measurements,
    }


def main(arguments: list[str]) -> None:
    if arguments not in ([], ["--quick"]):
        sys.exit(f"unknown arguments {arguments}; type: python scripts/benchmark_speed.py --quick")
    if arguments:
        print(markdown(run(QUICK, compile_too=False)))
        return
    results = run(Plan())
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "ppo.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    (FOLDER / "ppo.md").write_text(markdown(results), encoding="utf-8")
    with (FOLDER / "ppo.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER, *map(ratio_row, results["ratios"])])
    print(markdown(results))


if __name__ == "__main__":
    main(sys.argv[1:])
