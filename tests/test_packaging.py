"""What a stranger relies on: metadata, pinned versions, and files that work on any machine."""

import ast
import re
import runpy
import subprocess
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement

import rlsuite

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"([\w.-]+)==([\w.]+)")  # nothing else: no address, path, option or local version
# None of these patterns matches its own source text.
MACHINE_PATH = re.compile(r"(?<![\w.~})-])/(?:root|home|work|tmp|farm|mnt)\b(?=/|$|\s|[\"'`])")
REGISTRY = re.compile(
    r"pypi\.(?:org|python\.org)|pythonhosted\.org|pytorch\.org|npmjs\.(?:org|com)|anaconda\.org"
    r"|(?:docker|ghcr|quay|nvcr|gcr)\.io\b"
)


@pytest.fixture(scope="module")
def packaging():
    """What setup.py tells setuptools."""
    said = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", said.update)
        patch.chdir(ROOT)
        runpy.run_path("setup.py")
    return said


@pytest.fixture(scope="module")
def pins():
    """constraints.txt: package -> version."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    matches = [PIN.fullmatch(line) for line in lines if not line.startswith("#")]
    assert None not in matches
    return {normalised(match[1]): match[2] for match in matches}


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_console_command_is_a_function(packaging):
    (command,) = packaging["entry_points"]["console_scripts"]
    name, module, function = re.fullmatch(r"(\w+) = ([\w.]+):(\w+)", command).groups()
    assert name == "rlsuite"
    assert callable(getattr(import_module(module), function))


def test_version_is_written_once(packaging):
    assert packaging["version"] == rlsuite.__version__
    try:
        installed = distribution("rlsuite")
    except PackageNotFoundError:
        pytest.skip("rlsuite is not installed here, only on the path")
    assert installed.version == rlsuite.__version__
    assert [point.value for point in installed.entry_points] == ["rlsuite.cli.main:main"]


def test_published_values_are_packaged(packaging):
    assert "rlsuite.published" in packaging["packages"]
    folder = ROOT / packaging["package_dir"]["rlsuite.published"]
    (pattern,) = packaging["package_data"]["rlsuite.published"]
    assert len(list(folder.glob(pattern))) >= 6


def test_pins_satisfy_the_bounds(packaging, pins):
    asked = [*packaging["install_requires"], *packaging["extras_require"]["dev"]]
    assert len(asked) > 10
    for requirement in map(Requirement, asked):
        assert pins[normalised(requirement.name)] in requirement.specifier, str(requirement)


def test_pins_that_engine_parity_and_the_cpu_build_need(pins):
    assert pins["mujoco"] == "3.6.0"
    assert pins["envpool"] == "1.2.5"
    assert pins["torch"] == "2.13.0"


def text_files():
    """Path -> text of every file that git tracks or would add; without git, of every file."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    names = listed.stdout.splitlines() or [
        file.relative_to(ROOT).as_posix()
        for folder in ("rlsuite", "benchmarks", "scripts", "tests", "docker", "results")
        for file in (ROOT / folder).rglob("*")
        if "__pycache__" not in file.parts
    ]
    texts = {}
    for name in names:
        try:
            texts[name] = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):  # a picture; a folder, or a file deleted since
            continue
    assert "rlsuite/__init__.py" in texts
    return texts


@pytest.mark.parametrize(
    ("pattern", "line", "found"),
    [
        (MACHINE_PATH, "cd " + "/ro" + "ot/x", True),
        (MACHINE_PATH, "log in '" + "/tm" + "p'", True),
        (MACHINE_PATH, "results/wo" + "rk/ho" + "me/x and https://example.net/ho" + "me/y", False),
        (REGISTRY, "https://py" + "pi.org/simple", True),
        (REGISTRY, "FROM gh" + "cr.io/x", True),
        (REGISTRY, "the index that pip is set up with", False),
    ],
)
def test_patterns_find_what_they_are_for(pattern, line, found):
    assert bool(pattern.search(line)) == found


def test_no_file_names_a_path_of_one_machine_or_a_registry():
    offences = [
        f"{name}:{number}: {line.strip()}"
        for name, text in text_files().items()
        for number, line in enumerate(text.splitlines(), start=1)
        if MACHINE_PATH.search(line) or REGISTRY.search(line)
    ]
    assert offences == []


def test_files_functions_and_lines_stay_small():
    offences = []
    for name, text in text_files().items():
        if not (name.startswith(("rlsuite/", "benchmarks/", "scripts/")) and name.endswith(".py")):
            continue
        lines = text.splitlines()
        offences += [f"{name}: {len(lines)} lines"] if len(lines) > 400 else []
        offences += [f"{name}:{n}: wide" for n, line in enumerate(lines, 1) if len(line) > 100]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60:
                offences.append(f"{name}:{node.lineno}: {node.name} has over 60 lines")
    assert offences == []
