"""The reading test: how much a stranger has to open and read to have read an algorithm."""

import ast
import re
from pathlib import Path

import pytest

from rlsuite import algorithms

PACKAGE = Path(algorithms.__file__).parent.parent
MOST_FILES, MOST_LINES = 10, 1380
LIMITS = {
    "td3_bc": (10, 1160),
    "iql": (10, 1270),
    "ppo": (9, 1320),
    "mdpo": (9, 1300),
    "bc": (8, 1000),
    "fixpo": (10, 1500),  # a second distribution
    "a2pr": (11, 1350),  # a density, and a value beside the critics
    "spot": (12, 1470),  # a density, and a stage that acts
    **dict.fromkeys(("sac", "mdpo_off"), (11, 1510)),  # replay, and squashed actors
    **dict.fromkeys(("ppo_lag", "reload", "cat"), (11, 1580)),  # limits of costs
    **dict.fromkeys(("sac_lag", "cal"), (13, 1750)),  # replay, and limits of costs
    "awac": (13, 1510),  # a Gaussian or a squashed actor
    "mcep": (13, 1580),  # two bases
    "csve": (15, 1810),  # models of the dynamics
    "cfpi": (13, 1920),  # quantile critics, mixtures, and a policy that acts through them
    "dppo": (17, 2480),  # two stages, and on-policy data on top of a policy of its own
}


def shared_modules(path: Path) -> set[Path]:
    """Every module of ours that `path` imports, and what those import in turn."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rlsuite"):
            module = PACKAGE.parent / Path(*node.module.split(".")).with_suffix(".py")
            assert module.exists(), (
                f"{path.name} imports from a package, {node.module}: name a module"
            )
            found |= {module} | shared_modules(module)
    return found


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_an_algorithm_end_to_end_is_ten_short_files(name: str) -> None:
    own = Path(algorithms.load(name).__file__)
    files = {own, *shared_modules(own)}
    most_files, most_lines = LIMITS.get(name, (MOST_FILES, MOST_LINES))
    assert len(files) <= most_files, sorted(f.name for f in files)
    assert sum(map(lines, files)) <= most_lines, {f.name: lines(f) for f in files}


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_half_of_the_file_is_the_algorithm(name: str) -> None:
    """Docstring box, networks, objectives and update against everything."""
    source = Path(algorithms.load(name).__file__).read_text()
    box = len(ast.get_docstring(ast.parse(source), clean=False).splitlines()) + 1
    sections = re.split(r"^(?=# -{10,} \d\.)", source, flags=re.MULTILINE)
    paper = sum(len(s.splitlines()) for s in sections if re.match(r"# -+ [456]\.", s))
    assert (box + paper) / len(source.splitlines()) >= 0.5


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_algorithms_know_only_what_lies_below_them(name: str) -> None:
    """They import neither one another nor experiments."""
    for module in shared_modules(Path(algorithms.load(name).__file__)):
        assert module.relative_to(PACKAGE).parts[0] in ("core", "envs", "datasets"), module


def test_core_imports_nothing_of_ours_but_core() -> None:
    for path in (PACKAGE / "core").glob("*.py"):
        for module in shared_modules(path):
            assert module.parent.name == "core", (path.name, module.name)


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_all_that_an_algorithm_calls_of_its_run_is_in_contributing(name: str) -> None:
    tree = ast.parse(Path(algorithms.load(name).__file__).read_text())
    attributes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    used = {a.attr for a in attributes if isinstance(a.value, ast.Name) and a.value.id == "run"}
    assert {"begin", "stage", "log", "update"} <= used
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    assert {attr for attr in used if f"`run.{attr}" not in text} == set()
