"""A sample of what kill_everywhere.py and edit_json.py do; the whole takes minutes."""

import subprocess
import sys
from pathlib import Path

import edit_json

TESTS = Path(__file__).parent


def test_a_run_killed_or_out_of_disk_at_a_file_operation_resumes_to_the_same_bits() -> None:
    # In a process of its own: it forks, which threads of other tests would not survive
    command = [sys.executable, str(TESTS / "kill_everywhere.py"), "--every", "40"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(", 0 wrong") == 4  # two algorithms, two kinds of fault


def test_an_edited_manifest_is_refused_in_one_line(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RLSUITE_CACHE", str(tmp_path / "cache"))
    assert edit_json.main(["config.json", "--edits", "50"]) == 0
    assert "config.json: 50 edits, 0 wrong" in capsys.readouterr().out
