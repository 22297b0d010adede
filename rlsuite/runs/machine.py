"""What ran where: versions, hardware, commit; and whether to compile the update."""

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from rlsuite.core import cores
from rlsuite.core.ranges import Declared

ABSENT = "not installed"
PACKAGES = ("rlsuite", "torch", "numpy", "gymnasium", "mujoco", "envpool")
# Below this many gradient steps, compiling (10-30 s the first time) costs more than it saves
# (0.5 to 1 ms a step at 64-64).
WORTH_COMPILING = 30_000


# oneDNN's float32 products are up to 2.3 times as fast as MKL's on AMD processors, but a call costs
# 10 us more: it pays where a layer's width times a minibatch's rows is WORTH_ONEDNN. Where one of
# the two is less than LEAST, it is slower, or its bits depend on the number of seeds.
WORTH_ONEDNN, LEAST = 64 * 128, 64


def choose_products(declared: Declared) -> None:
    """Let PyTorch use oneDNN for float32 products where that pays, if its results are float32's.

    The setting that selects oneDNN also permits bfloat16, which processors with AMX then use. One
    product tells: float32 errs by 5e-4 here, bfloat16 by 0.6.
    """
    width, rows = min(declared.widths, default=0), declared.rows
    pays = width * rows >= WORTH_ONEDNN and min(width, rows) >= LEAST
    torch.set_float32_matmul_precision("medium" if pays else "highest")
    x = torch.linspace(-1, 1, 256 * 256).view(256, 256).sin()
    exact = x.double() @ x.double().T
    if ((x @ x.T) - exact).abs().max() > 1e-2:
        torch.set_float32_matmul_precision("highest")


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ABSENT
    return found


def hardware() -> dict[str, str | int | float]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    count = min(os.cpu_count() or 1, cores.quota())  # of a container: what it was given
    return {"cpu": _cpu_name(), "cores": count, "memory_gib": round(memory, 1)}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")


def git_commit() -> str:
    """Commit of the installed source, with `-dirty` if it was edited; `unknown` outside git."""
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        out = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return out.stdout.strip()


def should_compile(compile_setting: str, gradient_steps: int) -> bool:
    """`on`, `off`, or `auto`: where a C++ compiler exists and the run is long enough."""
    if compile_setting != "auto":
        return compile_setting == "on"
    return gradient_steps >= WORTH_COMPILING and shutil.which("g++") is not None


def compiled(function: Callable, say: Callable[[str], None]) -> Callable:
    """`function` through torch.compile; where that fails, `function` itself, and `say` why.

    The compiled code is cached in the user's cache folder, so only the first run waits for it.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rlsuite" / "compiled"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    how = {"dynamic": False, "fullgraph": True, "options": {"cpp_wrapper": True}}
    chosen: list[Callable] = []

    def call(*args, **named):
        if chosen:
            return chosen[0](*args, **named)
        say("compiling the update: up to half a minute the first time, a few seconds from cache")
        try:
            fast = torch.compile(function, **how)
            result = fast(*args, **named)
            chosen.append(fast)
        except Exception as error:  # any failure of the compiler: the plain function still works
            reason = str(error).strip().splitlines()
            say(f"not compiled ({reason[0] if reason else type(error).__name__}): plain PyTorch")
            chosen.append(function)
            result = function(*args, **named)
        return result

    return call


@contextlib.contextmanager
def asked_to_end(end: Callable[[], None]) -> Iterator[None]:
    """Call `end` where SIGTERM, as batch systems send it, or Ctrl-C asks this process to end.

    Ctrl-C stays ignored where it is, and stays another program's where that listens to it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can listen
        return
    heard = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        heard.append(signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: end()) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
