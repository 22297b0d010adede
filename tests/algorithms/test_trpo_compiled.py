"""TRPO's two compiled functions against the same two not compiled."""

import pytest
import torch
from ppo_setting import drift_registered
from trpo_setting import run, setting

from rlsuite.runs import machine


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_compiled_iteration_equals_the_plain_one(compiler):
    sizes = {"hidden": (8,), "critic_minibatches": 2, "critic_epochs": 1}  # compiles faster
    messages = []
    with drift_registered():
        plain, compiled = setting(**sizes), setting(**sizes)
        compiled.product = machine.compiled(compiled.product, messages.append)
        compiled.step.step = machine.compiled(compiled.step.step, messages.append)
        for _ in range(2):
            expected, metrics = run(plain), run(compiled)
    assert len(messages) == 2, messages  # each announced, and nothing failed
    torch.testing.assert_close(compiled.policy.theta, plain.policy.theta, rtol=1e-3, atol=1e-4)
    for name, value in expected.items():
        torch.testing.assert_close(metrics[name], value, rtol=1e-2, atol=1e-4)
