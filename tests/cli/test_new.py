"""`rlsuite new` begins a paper from another's: its file, its list entries, its failing tests."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
from test_paper_order import box_steps, tags

from rlsuite import algorithms
from rlsuite.cli import new
from rlsuite.cli.main import main
from rlsuite.runs.settings import field_comments


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch) -> Path:
    """The files that the command reads and changes, in a folder of the test's own."""
    for path in (new.REGISTRY, new.STYLES, new.LEARNING, new.READING):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(new.ROOT / path, tmp_path / path)
    shutil.copytree(new.ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "tests/algorithms").mkdir()
    for name in ("on_policy", "offline"):
        (tmp_path / "rlsuite/algorithms" / name).mkdir()
    monkeypatch.setattr(new, "ROOT", tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_paper_has_its_file_its_list_entries_and_a_test(checkout, monkeypatch) -> None:
    before = contents(checkout)
    assert main(["new", "my_method", "--like", "ppo"]) == 0
    entry = '    "my_method": "rlsuite.algorithms.on_policy.my_method",\n'
    assert entry in (checkout / new.REGISTRY).read_text()
    assert '    "my_method": Style(BLACK, ' in (checkout / new.STYLES).read_text()
    assert (
        '    "my_method": ACTING | QUICK | {"epochs": 8},' in (checkout / new.LEARNING).read_text()
    )
    assert '["train", "my_method", ' in (checkout / "scripts/my_method.py").read_text()
    for path in (new.REGISTRY, new.STYLES, new.LEARNING):  # a line more, and nothing else
        old, now = before[checkout / path].decode(), (checkout / path).read_text()
        assert [line for line in now.splitlines() if "my_method" not in line] == old.splitlines()

    file = checkout / "rlsuite/algorithms/on_policy/my_method.py"
    spec = importlib.util.spec_from_file_location("my_method", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "my_method", module)
    monkeypatch.setitem(algorithms.ALGORITHMS, "my_method", "my_method")
    spec.loader.exec_module(module)
    assert module.Config(**module.PRESETS["smoke"]["*"]).env_steps == 2048
    comments = field_comments(module.Config)
    assert comments["clip"] == "eps of the ratio's interval [TODO]"
    test = (checkout / "tests/algorithms/test_my_method.py").read_text()
    asked = {"__file__": str(checkout / "tests/algorithms/test_my_method.py")}
    exec(compile(test, "test_my_method.py", "exec"), asked)
    for name, given, said in (
        ("test_nothing_is_left_to_do_in_section", (1,), "TODO title of the paper"),
        ("test_nothing_is_left_to_do_in_section", (2,), "eps of the ratio's interval [TODO]"),
        ("test_nothing_is_left_to_do_in_section", (3,), "TODO table or file"),
        ("test_the_box_is_this_papers", (), "write the steps"),
        ("test_the_update_is_this_papers", (), "sections 5 and 6 are ppo's"),
        ("test_there_is_a_test_by_hand_of", ("clip_fraction",), "write test_clip_fraction"),
        ("test_its_trace_is_recorded", (), "tests/test_golden.py my_method"),
        ("test_its_published_values_are_written_down", (), "a row for each"),
    ):
        with pytest.raises(AssertionError) as failure:
            asked[name](*given)
        assert said in str(failure.value)


@pytest.mark.parametrize("like", algorithms.ALGORITHMS)
def test_whatever_paper_is_the_model_only_words_and_numbers_are_left_to_write(like) -> None:
    text = new.paper("my_method", like)
    model = Path(algorithms.load(like).__file__).read_text()
    cut = "5. Objectives"
    assert text.partition(cut)[2] == model.partition(cut)[2]
    assert box_steps(text) == box_steps(model) == tags(text)
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ppo", "--like", "ppo"], "ppo is an algorithm already"),
        (["My-Method", "--like", "ppo"], "use a-z, 0-9 and _: my_method"),
        (["class", "--like", "ppo"], "'class' cannot be a paper's name"),
        (["learning", "--like", "ppo"], "tests/test_learning.py exists"),
        (["my_method", "--like", "pppo"], "algorithm 'pppo' is unknown; use one of: ppo"),
        (["my_method"], "--like is missing"),
        ([], "--like is missing"),
    ],
)
def test_what_cannot_begin_a_paper_is_refused_before_anything_is_written(
    words, said, checkout, capsys
) -> None:
    before = contents(checkout)
    assert main(["new", *words]) == 2
    assert said in capsys.readouterr().err
    assert contents(checkout) == before


def test_an_installed_copy_that_is_no_checkout_is_refused(checkout, capsys) -> None:
    shutil.rmtree(checkout / "tests")
    assert main(["new", "my_method", "--like", "ppo"]) == 2
    assert "tests/test_learning.py cannot be written" in capsys.readouterr().err


def test_a_disk_that_refuses_a_file_leaves_the_checkout_as_it_was(checkout) -> None:
    before = contents(checkout)
    (checkout / "scripts/my_method.py").mkdir()  # no file can be written there
    with pytest.raises(OSError):
        new.write(new.files("my_method", "ppo"))
    (checkout / "scripts/my_method.py").rmdir()
    assert contents(checkout) == before
