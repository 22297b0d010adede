"""What `rlsuite tune --search` goes through: a range, or some values, of each setting."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rlsuite.cli import flags
from rlsuite.cli.config_file import words_of
from rlsuite.cli.grid import ELSEWHERE

RATE = "1e-5:1e-2:log"  # of each setting that its Config declares a learning rate
# What `--search NAME` alone goes through: around what the papers here have
RANGES = {
    "clip": "0.05:0.4",
    "discount": "0.95:0.999",
    "entropy_coef": "1e-6:0.1:log",
    "gae_lambda": "0.8:1",
    "kl_coef": "0.1:10:log",
    "max_grad_norm": "0.3:5:log",
    "polyak": "1e-3:0.05:log",
    "temperature": "0.01:10:log",
}
FORM = "type NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=VALUE,VALUE: learning-rate=1e-5:1e-3:log"
SWITCH = {"true": True, "false": False}


class Dimension(NamedTuple):
    """One setting, from `low` to `high`, or one of `values` if there are any."""

    field: flags.Flag
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    values: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        return self.field.kind in (int, int | None)

    def suggest(self, trial) -> list[str]:
        """What the sampler of an Optuna trial chooses, as it is typed."""
        name = self.field.name
        if self.values:
            return self.words(trial.suggest_categorical(name, self.values))
        if self.whole:
            return self.words(trial.suggest_int(name, int(self.low), int(self.high), log=self.log))
        return self.words(trial.suggest_float(name, self.low, self.high, log=self.log))

    def words(self, value: object) -> list[str]:
        if self.field.kind is bool:
            if str(value).lower() not in SWITCH:
                raise ValueError(f"--search {self.field.name}: {value!r} is not true or false")
            return words_of(self.field, SWITCH[str(value).lower()])
        return words_of(self.field, value.split() if isinstance(value, str) else value)

    def ends(self) -> list[list[str]]:
        """What is typed for each value, or for the two ends."""
        ends = (int(self.low), int(self.high)) if self.whole else (self.low, self.high)
        return [self.words(value) for value in self.values or ends]


def parse(
    words: Sequence[str], given: Sequence[str], known: Sequence[flags.Flag], rates: Sequence[str]
) -> list[Dimension]:
    """The dimensions that `--search` names; without it, the learning rates.

    given: the words of the other flags, which may not set the same; known: those of the algorithm.
    ValueError for what is no search.
    """
    fields = {flag.name: flag for flag in known}
    ranges = RANGES | dict.fromkeys(rates, RATE)
    typed = {word.partition("=")[0] for word in flags.spelled(given)}
    found: dict[str, Dimension] = {}
    for word in words or rates:
        text = word.partition("=")[0].lstrip("-")
        name = text.replace("-", "_")
        if name in ELSEWHERE or name not in fields:
            instead = ELSEWHERE.get(name, "rlsuite train ALGORITHM --help lists the settings")
            raise ValueError(f"--search {word}: {text} is no setting to search; {instead}")
        if name in found:
            raise ValueError(f"--search names {text} twice; give it once")
        if {fields[name].word, f"--no-{fields[name].word[2:]}"} & typed:
            raise ValueError(f"both {fields[name].word} and --search {word} are given")
        found[name] = _dimension(fields[name], word, ranges)
    return list(found.values())


def _dimension(field: flags.Flag, word: str, ranges: Mapping[str, str]) -> Dimension:
    text = word.partition("=")[2] or ranges.get(field.name, "")
    if "=" not in word and not text:
        raise ValueError(f"--search {word}: no range is known for it; {FORM}")
    if ":" not in text:
        values = tuple(value.strip() for value in text.split(","))
        if not all(values) or len(set(values)) < max(2, len(values)):
            raise ValueError(f"--search {word} is not understood; {FORM}")
        return Dimension(field, values=values)
    low, high, *scale = text.split(":")
    try:
        ends = float(low), float(high)
    except ValueError:
        raise ValueError(f"--search {word} is not understood; {FORM}") from None
    if scale not in ([], ["log"]) or not ends[0] < ends[1] < float("inf"):
        raise ValueError(f"--search {word} is not understood; {FORM}")
    if scale and ends[0] <= 0:
        raise ValueError(f"--search {word}: a range with :log begins above 0")
    found = Dimension(field, *ends, bool(scale))
    numbers = (int, float, int | None, float | None)
    if field.kind not in numbers or (found.whole and not all(x.is_integer() for x in ends)):
        raise ValueError(f"--search {word}: no such range goes with it; {FORM}")
    return found
