"""Offline updates through the real compiler, beside the same updates not compiled."""

import pytest
import torch

from rlsuite.core.saving import load_policy

SMALL = {
    "cfpi": {"hidden": (8, 8), "improvement_steps": 50, "quantiles": 2},
}
SIZES = {"hidden": (8,), "batch_size": 16, "gradient_steps": 50}  # small ones compile faster


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["td3_bc", "iql", "cfpi"])
def test_fifty_compiled_steps_equal_the_plain_ones(name, short_runs, compiler, capsys) -> None:
    sizes = SIZES | SMALL.get(name, {})
    ended = []
    for wish in ("off", "on"):
        folder = short_runs.train(wish, name, "InvertedPendulum-v4", compile=wish, **sizes)
        ended.append(load_policy(folder)[0].theta)
    said = capsys.readouterr().err
    assert "compiling" in said and "not compiled" not in said
    torch.testing.assert_close(ended[1], ended[0], rtol=1e-3, atol=1e-4)
