"""What ran where, and whether the update is compiled."""

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rlsuite.runs import machine


def test_versions(monkeypatch):
    monkeypatch.setattr(machine, "PACKAGES", ("torch", "no-such-package"))
    found = machine.versions()
    # A build's local part ("+cu130") may stand in one of the two alone.
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["no-such-package"] == "not installed"
    assert found["python"].count(".") == 2


def test_hardware(monkeypatch):
    monkeypatch.setattr(machine.cores, "quota", lambda: 1_000_000)
    found = machine.hardware()
    assert found["cores"] == os.cpu_count()
    assert 0.1 < found["memory_gib"] < 100_000
    assert found["cpu"]


def test_a_container_has_no_more_cores_than_its_quota(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(machine.cores, "quota", lambda: 2)
    assert machine.hardware()["cores"] == 2


def test_the_processor_has_a_name_where_the_system_does_not_tell(monkeypatch):
    def unreadable(*_args, **_kwargs):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", unreadable)
    assert machine.hardware()["cpu"]
    monkeypatch.setattr(Path, "read_text", lambda *_: "vendor_id : none\n")
    assert machine.hardware()["cpu"] == "unknown"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_says_whether_the_source_was_edited(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "machine.py"))
    git(tmp_path, "init", "-q")
    (tmp_path / "machine.py").write_text("one\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    git(tmp_path, "tag", "v1")  # a tag must not take the place of the hash
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert machine.git_commit() == commit
    (tmp_path / "machine.py").write_text("two\n")
    assert machine.git_commit() == f"{commit}-dirty"


def test_the_commit_is_unknown_outside_git_and_without_git(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "machine.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert machine.git_commit() == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.git_commit() == "unknown"


@pytest.mark.parametrize(
    ("wish", "gradient_steps", "compiler", "answer"),
    [
        ("on", 1, None, True),
        ("off", 10**9, "/usr/bin/g++", False),
        ("auto", machine.WORTH_COMPILING, "/usr/bin/g++", True),
        ("auto", machine.WORTH_COMPILING - 1, "/usr/bin/g++", False),
        ("auto", 10**9, None, False),
    ],
)
def test_should_compile(monkeypatch, wish, gradient_steps, compiler, answer):
    monkeypatch.setattr(shutil, "which", lambda name: compiler if name == "g++" else None)
    assert machine.should_compile(wish, gradient_steps) is answer


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """`compiled` names the cache folder in the environment unless it is there; put it back."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))


def fake_compiler(monkeypatch, function) -> list:
    """Replaces torch.compile: what it is asked to compile becomes `function`."""
    asked = []

    def compile_(original, **options):
        asked.append((original, options))
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    return asked


def test_a_compiled_function_is_used_and_announced_once(cache, monkeypatch):
    def double(x):
        return 2 * x

    asked = fake_compiler(monkeypatch, lambda x: 2 * x + 0.5)
    messages = []
    call = machine.compiled(double, messages.append)
    assert messages == []  # nothing is compiled before the first call
    assert [call(1), call(2)] == [2.5, 4.5]
    assert len(messages) == 1
    assert messages[0].startswith("compiling the update")
    assert asked[0][0] is double
    assert asked[0][1]["fullgraph"] is True


def test_named_arguments_reach_the_compiled_function_and_the_plain_one(cache, monkeypatch):
    def broken(x, *, scale):
        raise RuntimeError("no compiler")

    def times(x, *, scale):
        return scale * x

    for fast, results in ((lambda x, *, scale: scale * x + 0.5, [6.5, 8.5]), (broken, [6, 8])):
        fake_compiler(monkeypatch, fast)
        call = machine.compiled(times, lambda _: None)
        assert [call(3, scale=2), call(4, scale=2)] == results


def test_a_failed_compilation_falls_back_and_says_why(cache, monkeypatch):
    tried = []

    def broken(x):
        tried.append(x)
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nmore, and more")

    fake_compiler(monkeypatch, broken)
    messages = []
    call = machine.compiled(lambda x: 2 * x, messages.append)
    assert [call(1), call(2), call(3)] == [2, 4, 6]
    assert tried == [1]  # not tried again
    assert messages[1:] == [
        "not compiled (InvalidCxxCompiler: No working C++ compiler found): plain PyTorch"
    ]


def test_a_failure_without_a_message_is_named_by_its_type(cache, monkeypatch):
    def broken(_x):
        raise NotImplementedError

    fake_compiler(monkeypatch, broken)
    messages = []
    assert machine.compiled(lambda x: 2 * x, messages.append)(1) == 2
    assert messages[1] == "not compiled (NotImplementedError): plain PyTorch"


def test_a_pytorch_that_refuses_to_compile_at_all_falls_back_too(cache, monkeypatch):
    def refuse(*_args, **_options):
        raise RuntimeError("torch.compile is not supported on Python 3.99+")

    monkeypatch.setattr(torch, "compile", refuse)
    messages = []
    assert machine.compiled(lambda x: 2 * x, messages.append)(3) == 6
    assert "not compiled (torch.compile is not supported on Python 3.99+)" in messages[-1]


def test_an_error_of_the_function_itself_is_not_swallowed(cache, monkeypatch):
    def wrong(x):
        raise ZeroDivisionError(f"with {x}")

    fake_compiler(monkeypatch, wrong)
    with pytest.raises(ZeroDivisionError, match="with 1"):
        machine.compiled(wrong, lambda _: None)(1)


def test_the_cache_lies_in_the_users_cache_folder_unless_named(cache, monkeypatch, tmp_path):
    fake_compiler(monkeypatch, None)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    machine.compiled(print, print)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    machine.compiled(print, print)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/somewhere/rlsuite/compiled"


@pytest.mark.parametrize(
    ("hidden", "rows", "chosen"),
    [
        ((256, 256), 256, "medium"),
        ((64, 64), 128, "medium"),
        ((64, 64), 64, "highest"),  # MKL is faster
        ((256, 64), 128, "medium"),  # the narrowest layer counts: 64 x 128
        ((256, 32), 256, "highest"),
        ((256, 256), 32, "highest"),  # few rows: its bits would depend on the seeds
        ((), 256, "highest"),
    ],
)
def test_the_kernels_that_pay_are_chosen(hidden, rows, chosen):
    before = torch.get_float32_matmul_precision()
    try:
        machine.choose_products(SimpleNamespace(widths=hidden, rows=rows))
        assert torch.get_float32_matmul_precision() in (chosen, "highest")  # AMX: never bfloat16
        if chosen == "medium" and "amx_bf16" not in Path("/proc/cpuinfo").read_text():
            assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
