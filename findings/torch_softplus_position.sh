#!/usr/bin/env bash
# PyTorch 2.13.0, CPU: what softplus makes of a number depends on where the number stands.
#
# The elements that fill whole vector registers are computed by one routine, those left over at the
# end of a tensor by another, and for softplus the two differ in the last bit. So the same sample
# gets another loss when the batch has another size, although nothing is summed: a seed trained
# alone and the same seed trained in company part. tanh, exp and log1p of the same numbers do not
# depend on the position.
#
# Seen on Linux, x86-64, Python 3.11, torch 2.13.0+cpu with AVX2 kernels, 2001 numbers from -6 to 6:
#   softplus: 216 differ between the first and the last element of 17 equal ones
#   tanh, exp, log1p: 0 differ
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 "numpy<3"
ATEN_CPU_CAPABILITY=avx2 "$folder/venv/bin/python" - <<'PY'
import sys

import torch


def differing(function, numbers) -> int:
    """Of how many numbers the first and the last of 17 equal ones have other images."""
    found = 0
    for number in numbers:
        image = function(torch.full((17,), float(number)))
        found += bool(image[0] != image[-1])
    return found


numbers = torch.linspace(-6, 6, 2001)
print("kernels:", torch.backends.cpu.get_cpu_capability())
softplus = differing(torch.nn.functional.softplus, numbers)
print("softplus:", softplus, "differ between the first and the last element of 17 equal ones")
others = {
    "tanh": differing(torch.tanh, numbers),
    "exp": differing(torch.exp, numbers),
    "log1p": differing(torch.log1p, numbers.abs()),
}
print("the same for", others)
sys.exit(not (softplus > 100 and not any(others.values())))
PY
echo "as described"
