"""Policies as files for programs without rlsuite: ONNX, or a program of torch.export."""

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from rlsuite.core.acting import Policy
from rlsuite.core.deployed import Deployed, observations, require_same

CHECKED, TOLERANCE = 1000, 1e-5  # observations, and how far the file's actions may be off
INSTALL = "pip install onnx onnxruntime onnxscript"
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
Actions = Callable[[np.ndarray], np.ndarray]


def export(policy: Policy, to: str, out: Path) -> float:
    """Write `policy` to the file `out`, which is there only once its actions were checked.

    Returns how far these are off, at most, over a thousand observations. ValueError for a format
    that is unknown and for a policy that cannot be exported, ImportError for a package that is
    missing, OSError where the file cannot be written.
    """
    if to not in SUFFIXES:
        raise ValueError(f"--to is {to!r}; use one of: {', '.join(SUFFIXES)}")
    deployed = Deployed(policy).eval()
    require_installed(to)
    partial = out.with_name(f"{out.stem}.partial{SUFFIXES[to]}")
    obs = observations(policy, CHECKED)
    try:
        actions = (_onnx if to == "onnx" else _program)(
            deployed, torch.from_numpy(obs[:4]), partial
        )
        far = require_same(policy, deployed, obs, actions(obs), TOLERANCE)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return far


def require_installed(to: str) -> None:
    """ImportError where a package that the format needs is missing."""
    if to != "onnx":
        return
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{error.name} is not installed, which --to onnx needs: {INSTALL}"
        ) from None


def _onnx(deployed: Deployed, example: torch.Tensor, path: Path) -> Actions:
    import onnxruntime

    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own code, and what it logs of packages
        logger.setLevel(logging.ERROR)
        torch.onnx.export(
            deployed,
            (example,),
            path,
            input_names=["obs"],
            output_names=["action"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    logger.setLevel(level)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda obs: session.run(None, {"obs": obs})[0]


def _program(deployed: Deployed, example: torch.Tensor, path: Path) -> Actions:
    with torch.no_grad():
        program = torch.export.export(
            deployed, (example,), dynamic_shapes=({0: torch.export.Dim("N")},)
        )
    torch.export.save(program, path)
    loaded = torch.export.load(path).module()
    return lambda obs: loaded(torch.from_numpy(obs)).numpy()
