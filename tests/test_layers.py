"""The picture of imports: what each part of the package may know, and that nothing goes round."""

import ast
from pathlib import Path

import rlsuite

PACKAGE = Path(rlsuite.__file__).parent
# part -> the parts that it may import besides itself. Within functions, too: an import there is
# late, but it is the same arrow
BELOW = {
    "core": set(),
    "envs": {"core"},
    "datasets": {"core", "envs"},
    "algorithms": {"core", "envs", "datasets"},
    "runs": {"core", "envs", "datasets", "algorithms"},
    "evidence": {"core", "envs", "datasets", "algorithms", "runs"},
    "reading": {"algorithms"},
    "cli": {"core", "envs", "datasets", "algorithms", "runs", "evidence", "reading"},
}


def imports(path: Path) -> set[str]:
    """Names of our modules that `path` imports anywhere, `rlsuite.core.optim`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rlsuite"):
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                found.add(name if module_file(name) else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("rlsuite.")}
    return found


def module_file(name: str) -> Path | None:
    path = PACKAGE.parent / Path(*name.split("."))
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def test_no_import_points_upward() -> None:
    upward = []
    for name, path in modules().items():
        part = name.split(".")[1] if "." in name else ""
        for target in imports(path):
            other = target.split(".")[1] if "." in target else ""
            if part in BELOW and other in BELOW and other not in BELOW[part] | {part}:
                upward.append(f"{name} imports {target}")
    assert upward == []


def test_every_part_of_the_package_has_its_place() -> None:
    parts = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert parts == BELOW.keys()


def test_no_imports_go_round() -> None:
    graph = {name: imports(path) & modules().keys() for name, path in modules().items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*way, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())
