"""Names become names of files, each its own, and come back."""

from pathlib import Path

import pytest

from rlsuite.runs.filenames import LONGEST, escape, unescape

ODD = (
    *("ALE/Pong-v5", "module:Task-v0", "../../x", "..", ".", ".hidden", "/absolute", "a/../b"),
    *("a\\b", "100%", "a%2Fb", "two words", "line\nbreak", "naïve", "~user", "-flag", "nul\0"),
)


@pytest.mark.parametrize("name", ["Hopper-v4", "hopper-medium-v0", "td3_bc", "bc-10-percent"])
def test_usual_names_stay_as_they_are(name):
    assert escape(name) == name


@pytest.mark.parametrize("name", ODD)
def test_an_odd_name_is_one_file_in_the_folder_and_comes_back(tmp_path, name):
    file = tmp_path / escape(name)
    assert file.parent == tmp_path and Path(file.name).parts == (file.name,)
    assert not file.name.startswith(".")
    file.write_text(name)
    assert [unescape(path.name) for path in tmp_path.iterdir()] == [name]


def test_two_names_never_share_a_file():
    names = [*ODD, "ALE-Pong-v5", "module-Task-v0", "a/b", "a-b", "a_b", "a%252Fb"]
    assert len({escape(name) for name in names}) == len(names)


def test_no_name_and_a_name_that_no_disk_takes_are_refused():
    with pytest.raises(ValueError, match="'' has 0 characters"):
        escape("")
    assert len(escape("x" * LONGEST)) == LONGEST
    with pytest.raises(ValueError, match=f"has {LONGEST + 1} characters"):
        escape("x" * (LONGEST + 1))
