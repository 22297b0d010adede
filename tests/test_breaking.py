"""A sample of what kill_everywhere.py and edit_json.py do; the whole takes minutes."""

import os
import subprocess
import sys
from pathlib import Path

import edit_json
import pytest

TESTS = Path(__file__).parent


@pytest.mark.slow
def test_a_run_killed_or_out_of_disk_at_a_file_operation_resumes_to_the_same_bits() -> None:
    # In a process of its own: it forks, which threads of other tests would not survive
    command = [sys.executable, str(TESTS / "kill_everywhere.py"), "--every", "40"]
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(", 0 wrong") == 6  # three algorithms, two kinds of fault


@pytest.mark.parametrize("target", edit_json.TARGETS)
def test_an_edited_field_is_refused_in_one_line(target, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RLSUITE_CACHE", str(tmp_path / "cache"))
    assert edit_json.main([target, "--edits", "50"]) == 0
    assert f"{target}: 50 edits, 0 wrong" in capsys.readouterr().out
