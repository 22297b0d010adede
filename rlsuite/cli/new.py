"""The command `rlsuite new`: a paper's file and test, made from another's, and its list entries."""

import ast
import dataclasses
import itertools
import keyword
import os
import re
from collections.abc import Mapping
from pathlib import Path

import rlsuite
from rlsuite import algorithms
from rlsuite.cli import flags
from rlsuite.cli.new_test import TEST
from rlsuite.evidence import styles

ROOT = Path(rlsuite.__file__).parents[1]
REGISTRY, STYLES = "rlsuite/algorithms/__init__.py", "rlsuite/evidence/styles.py"
LEARNING, READING = "tests/test_learning.py", "tests/test_reading.py"
ACTING = ("on_policy", "off_policy")  # families whose papers stand in one figure
SOURCE = re.compile(r"\[[^][]*[A-Za-z][^][]*\]")  # of a setting; an interval has no letters


@dataclasses.dataclass
class New:
    """Begin a paper: its file, its test and its lines in the lists, from those of another paper."""

    like: str  # the paper that it resembles most, whose family it joins, e.g. ppo


def new(argv: list[str]) -> None:
    """Write what `rlsuite new NAME --like MODEL` begins a paper with."""
    words, rest = flags.leading(argv)
    options = flags.parse("rlsuite new NAME", New, rest)
    if len(words) != 1:
        raise ValueError("which one name? type: rlsuite new my_method --like ppo")
    algorithms.load(options.like)
    require_checkout()
    require_name(words[0])
    made = files(words[0], options.like)
    write(made)
    for path in made:
        print(f"wrote {path}")
    print(
        f"\nIt trains already, as {options.like} does. What is left to write, each failure says:\n"
        f"python -m pytest -q {_test(words[0])}"
    )


def require_checkout() -> None:
    """ValueError where rlsuite is not imported from a checkout that can be written to."""
    for path in (REGISTRY, STYLES, LEARNING, READING, "tests/algorithms", "scripts"):
        if not os.access(ROOT / path, os.W_OK):
            raise ValueError(
                f"rlsuite is imported from {ROOT}, where {path} cannot be written: a paper is "
                "added to a checkout. Type there: pip install -e ."
            )


def require_name(name: str) -> None:
    """ValueError for a name that no file, function or test can have, or that something has."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ValueError(f"{name!r} cannot be a paper's name; use a-z, 0-9 and _: my_method")
    if name in algorithms.ALGORITHMS:
        raise ValueError(f"{name} is an algorithm already: {algorithms.ALGORITHMS[name]}")
    places = ("rlsuite/algorithms/*", "scripts", "tests", "tests/*")
    for place, file in itertools.product(places, (f"{name}.py", f"test_{name}.py")):
        for path in ROOT.glob(f"{place}/{file}"):
            raise ValueError(f"{path.relative_to(ROOT)} exists; choose another name")


def files(name: str, like: str) -> dict[str, str]:
    """{path within the checkout: its text}, of all that is new or changed."""
    family = algorithms.ALGORITHMS[like].split(".")[2]
    texts = {path: (ROOT / path).read_text() for path in (REGISTRY, STYLES, LEARNING, READING)}
    entry = f'"{like}": "rlsuite.algorithms.{family}.{like}",'
    registry = _add(REGISTRY, texts[REGISTRY], entry, entry.replace(like, name))
    if like in algorithms.REPLAY:
        old = f"REPLAY = {algorithms.REPLAY}".replace("'", '"')
        given = f"REPLAY = {(*algorithms.REPLAY, name)}".replace("'", '"')
        registry = registry.replace(old, given)
    chosen = f'"{name}": Style({", ".join(_free_style(family))}),'
    last = next(reversed(styles.STYLES))
    found = {
        f"rlsuite/algorithms/{family}/{name}.py": paper(name, like),
        _test(name): TEST.replace("@name@", name).replace("@like@", like),
        f"scripts/{name}.py": _script(name, like),
        REGISTRY: registry,
        STYLES: _add(STYLES, texts[STYLES], f'"{last}": Style(', chosen),
        LEARNING: _add_as_last(LEARNING, texts[LEARNING], "SETTINGS", name, like),
    }
    if re.search(rf'"{like}"', texts[READING].partition("LONGER")[2].partition("\n}")[0]):
        found[READING] = _add_as_last(READING, texts[READING], "LONGER", name, like)
    return found


def write(made: Mapping[str, str]) -> None:
    """All of it, or, where the disk refuses one, none."""
    before = {path: (ROOT / path).read_bytes() for path in made if (ROOT / path).exists()}
    try:
        for path, text in made.items():
            (ROOT / path).write_text(text)
    except OSError:
        for path in made:
            if path in before:
                (ROOT / path).write_bytes(before[path])
            else:
                (ROOT / path).unlink(missing_ok=True)
        raise


# ------------------------------------------------------------------------------ the paper's file


def paper(name: str, like: str) -> str:
    """The file of `like` with TODO where another paper has other words or numbers."""
    module = algorithms.load(like)
    source = Path(module.__file__).read_text()
    end = ast.parse(source).body[0].end_lineno
    lines = source.splitlines(keepends=True)
    sections = re.split(r"^(?=# -{10,} \d\.)", "".join(lines[end:]), flags=re.M)
    text = _docstring(name, like, "".join(lines[:end]))
    for section in sections:
        title = re.match(r"# -+ \d\. (\w+)\n", section)
        if title and title[1] == "Config":
            section = re.sub(r"^    \w+:[^#\n]*  # .+$", _without_sources, section, flags=re.M)
        elif title and title[1] == "Presets":
            section = f"{title[0]}\n{_presets(module.PRESETS['smoke'])}\n"
        text += section
    return text


def _docstring(name: str, like: str, text: str) -> str:
    """The box and glossary of `text`, below a title and above departures that are to be written."""
    paragraphs = text.strip().removesuffix('"""').strip().split("\n\n")[1:]
    departing = (i for i, each in enumerate(paragraphs) if "Departures" in each)
    body = "\n\n".join(paragraphs[: next(departing, None)])
    return (
        f'"""{name.upper()}: TODO title of the paper (TODO authors, year, arXiv number).\n\n'
        f"TODO the paper's box and glossary: below are those of {like}, as the code still is.\n\n"
        f"{body}\n\n"
        'Departures from the paper or its official code: TODO each with its reason.\n"""\n'
    )


def _without_sources(line: re.Match) -> str:
    field, mark, comment = line[0].partition("  # ")
    return f"{field}{mark}{SOURCE.sub('[TODO]', comment)}"


def _presets(smoke: Mapping[str, Mapping]) -> str:
    """Section 3: the defaults, and a run of seconds."""
    lines = [
        '# preset -> task family ("*": any task) -> what differs from the defaults',
        "PRESETS: dict[str, dict[str, dict]] = {",
        '    "paper": {"*": {}},  # TODO table or file that the defaults are from',
        '    "smoke": {',
    ]
    for task, values in smoke.items():
        lines += [f'        "{task}": dict(']
        lines += [f"            {key}={_literal(value)}," for key, value in values.items()]
        lines += ["        ),"]
    return "\n".join([*lines, "    },  # ours", "}"]) + "\n"


def _literal(value: object) -> str:
    return repr(value).replace("'", '"')


# ----------------------------------------------------------------------------------- the lists


def _test(name: str) -> str:
    return f"tests/algorithms/test_{name}.py"


def _script(name: str, like: str) -> str:
    text = (ROOT / f"scripts/{like}.py").read_text()
    first = re.sub(r'^"""[^,]+,', f'"""{name.upper()},', text, count=1)
    return re.sub(rf"\b{like}\b", name, first)


def _add(path: str, text: str, start: str, line: str) -> str:
    """`line` below the one that begins with `start`, indented as it is."""
    lines = text.splitlines()
    found = [i for i, each in enumerate(lines) if each.strip().startswith(start)]
    if len(found) != 1:
        raise ValueError(f"{path} has no line {start} to write below; put it back")
    indent = lines[found[0]][: -len(lines[found[0]].lstrip())]
    lines.insert(found[0] + 1, indent + line)
    return "\n".join(lines) + "\n"


def _add_as_last(path: str, text: str, table: str, name: str, like: str) -> str:
    """The entry of `like` once more at the end of the dict `table`, under `name`."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == table:
            break
    else:
        raise ValueError(f"{path} has no table {table}; put it back")
    pairs = dict(_entries(text, node.value))
    if like not in pairs:
        return text
    lines = text.splitlines()
    lines.insert(node.end_lineno - 1, f'    "{name}": {pairs[like]},')
    return "\n".join(lines) + "\n"


def _entries(text: str, table: ast.Dict):
    """(name, its value's source), also of names that share a value by dict.fromkeys."""
    for key, value in zip(table.keys, table.values, strict=True):
        if key is None:
            for each in value.args[0].elts:
                yield each.value, ast.get_source_segment(text, value.args[1])
        else:
            yield key.value, ast.get_source_segment(text, value)


def _free_style(family: str) -> tuple[str, str]:
    """Colour and marker that no paper has; the colour is the rarest in the family's figures."""
    names = {getattr(styles, each): each for each in ("BLUE", "VERMILION", "GREEN", "PINK")}
    names |= {getattr(styles, each): each for each in ("ORANGE", "SKY", "BLACK")}
    markers = {styles.PLAIN: "PLAIN", styles.DISC: "DISC", styles.TRIANGLE: "TRIANGLE"}
    markers |= {each: f'"{each}"' for each in styles.OF_VARIANTS}
    together = ACTING if family in ACTING else (family,)
    beside = [
        style.colour
        for name, style in styles.STYLES.items()
        if algorithms.ALGORITHMS.get(name, "..").split(".")[2] in together
    ]
    taken = set(styles.STYLES.values())
    free = [
        (beside.count(colour), colour, marker)
        for marker in markers
        for colour in styles.COLOURS
        if styles.Style(colour, marker) not in taken
    ]
    _, colour, marker = min(free, key=lambda each: each[0])
    return names[colour], markers[marker]
