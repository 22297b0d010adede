"""Who competes in the offline speed benchmark, and what is asked of whom: for offline.py.

A contestant is a name and one specification for each of its processes, as in plans.py;
offline_contestants.py does what a specification says.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.plans import CORES, TWO_PROCESSES, TWO_THREADS, Contestants, Question, preset_name

TASK = "17 observations, 6 actions"
ONE_THREAD = "1 thread"
HOWS = (ONE_THREAD, TWO_THREADS, TWO_PROCESSES)
MODES = {"eager": "off", "compiled": "on"}  # of our update, and what `--compile` calls them
PEERS = {"plain": "plain loop", "corl": "CORL", "d3rlpy": "d3rlpy"}
TARGETS = {("corl", 1): 1.7, ("corl", 4): 2.3}  # (peer, our seeds): on two threads

# Steps per second of one seed on 1 and on 2 cores, and of CORL on 2 threads of the same machine at
# the same shapes, lowest and highest: figures of another run, November 2026, jax 0.10.2
QUOTED = {"unifloral": (386, 578), "JAX-CORL, its LayerNorm removed": (None, 556)}
QUOTED_CORL = (171, 218)


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    counts: tuple[int, ...] = (1, 4, 10)  # of our seeds; but for 1, even
    rounds: int = 5
    seconds: float = 2.0  # a turn is whole iterations for at least so long
    steps: int = 50  # gradient steps of each seed in an iteration; a multiple of policy_freq


QUICK = Plan((1, 2), rounds=1, seconds=0.1, steps=10)

ABOUT = (
    "TD3+BC, batches of 256, 256-256 networks, 17 observations, 6 actions, 100,000 synthetic "
    "transitions; gradient steps (of the critics; every second one moves the actor, too) x seeds "
    "per second, drawing the batch included, after warm-up. Eager and compiled are our own update "
    "without and with `--compile on`. The plain loop is one seed in nn.Module and torch.optim.Adam "
    "(offline_peers.py); CORL is its td3_bc.py, class TD3_BC and its replay buffer, and "
    "d3rlpy its TD3PlusBC, both at their defaults, without logs. They train one seed; "
    f"{TWO_PROCESSES}: theirs one seed each, ours half of the seeds each."
)


SCRIPT = {"module": "benchmarks.offline_contestants"}  # what a contestant's process runs


def processes(each: dict, half: dict) -> Contestants:
    """Ways to run on two cores: `each` on 1 and on 2 threads, and `half` on either core."""
    return {
        ONE_THREAD: [each | {"threads": 1, "cores": CORES}],
        TWO_THREADS: [each | {"threads": 2, "cores": CORES}],
        TWO_PROCESSES: [half | {"threads": 1, "cores": [core]} for core in CORES],
    }


def ours_names(seeds: int, how: str) -> list[str]:
    return [preset_name(seeds, f"{mode}, {how}") for mode in MODES]


def peer_name(peer: str, how: str) -> str:
    return f"{PEERS[peer]}, {how}"


def contestants(plan: Plan, peers: Sequence[str]) -> Contestants:
    """All that are measured, in turn; `peers` are keys of PEERS."""
    found = {}
    for seeds in plan.counts:
        for mode, wish in MODES.items():
            manifest = {"who": "ours", "task": TASK, "compile": wish, "steps": plan.steps} | SCRIPT
            ways = processes(manifest | {"seeds": seeds}, manifest | {"seeds": seeds // 2})
            if seeds == 1:
                del ways[TWO_PROCESSES]
            found |= {preset_name(seeds, f"{mode}, {how}"): specs for how, specs in ways.items()}
    for peer in peers:
        manifest = {"who": peer, "steps": plan.steps} | SCRIPT
        found |= {
            peer_name(peer, how): specs for how, specs in processes(manifest, manifest).items()
        }
    return found


def questions(plan: Plan, peers: Sequence[str]) -> list[Question]:
    """Like against like; on two threads, against the better of a peer's 1 and 2 threads."""
    asked = []
    for peer in peers:
        for seeds in plan.counts:
            for how in HOWS if seeds > 1 else (ONE_THREAD, TWO_THREADS):
                theirs = (ONE_THREAD, TWO_THREADS) if how == TWO_THREADS else (how,)
                target = TARGETS.get((peer, seeds), 0.0) if how == TWO_THREADS else 0.0
                against = [peer_name(peer, each) for each in theirs]
                asked.append((ours_names(seeds, how), against, target))
    return asked
