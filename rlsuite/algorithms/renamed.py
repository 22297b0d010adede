"""Settings under the names that they had before, which run folders, manifests and hashes keep."""

from rlsuite.algorithms import ALGORITHMS

# Algorithm -> old name -> today's; what was one setting of two optimisers is two settings now.
_RATES = ("actor_lr", "critic_lr")
_OWN: dict[str, dict[str, tuple[str, ...]]] = {
    "mdpo": {"policy_lr": ("actor_lr",)},
    "reload": {"policy_lr": ("actor_lr",)},
    "td3_bc": {"learning_rate": _RATES, "tau": ("polyak",)},
    "iql": {"learning_rate": _RATES, "anneal_actor_lr": ("anneal_lr",)},
    "spot": {
        "tau": ("polyak",),
        "penalty": ("support_weight",),
        "penalty_floor": ("support_weight_floor",),
    },
}


def table(algorithm: str) -> dict[str, tuple[str, ...]]:
    """Old name -> today's, of the settings of `algorithm`, which may be unknown here."""
    offline = ".offline." in ALGORITHMS.get(algorithm, "")
    steps = "gradient_steps" if offline else "env_steps"
    return {"total_steps": (steps,)} | _OWN.get(algorithm, {})


def renamed(algorithm: str, config: dict) -> dict:
    """Settings as a config.json or a manifest has them, under today's names."""
    names = table(algorithm)
    return {new: value for old, value in config.items() for new in names.get(old, (old,))}


def original(algorithm: str, config: dict) -> dict:
    """Settings under the names that hashes are made of, so that old rows and new ones join.

    Two that were one setting are that one as long as they are equal.
    """
    found = dict(config)
    for old, new in table(algorithm).items():
        values = [found[name] for name in new if name in found]
        if len(values) == len(new) and all(value == values[0] for value in values):
            found = {k: v for k, v in found.items() if k not in new} | {old: values[0]}
    return found


def flag_of_today(algorithm: str, word: str) -> str | None:
    """`--env-steps` for the old flag `--total-steps`; None for a word that was no flag."""
    flag = word.partition("=")[0].replace("_", "-")
    no = "no-" if flag.startswith("--no-") else ""
    names = table(algorithm).get(flag.removeprefix("--").removeprefix("no-").replace("-", "_"))
    if not flag.startswith("--") or names is None:
        return None
    return " and ".join(f"--{no}{name.replace('_', '-')}" for name in names)
