# make test        style check, then every test: what CI runs
# make quick       the tests that are not marked slow
# make coverage    every test, and which lines none of them reaches: a quarter slower
# make reproduce   PPO on Hopper-v4, 5 seeds: trained, evaluated, beside the published value
#
# Both first set up .venv, which needs Python 3.11 or newer and a package index that pip can reach.
# pip's own variables (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS) say where it looks, for
# example for a build of PyTorch without CUDA. PYTHON=... chooses another interpreter.
#
# Tests run in one process for each core, at most 8, which need 1.5 GB of memory each. They hold for
# any rounding: ATEN_CPU_CAPABILITY=default, MKL_CBWR=COMPATIBLE or ONEDNN_MAX_CPU_ISA=AVX2 before
# make lets PyTorch compute with other kernels.

PYTHON ?= $(firstword $(foreach name,python3.11 python3 python,$(shell $(name) -c \
	'import sys; print(sys.version_info >= (3, 11) and "$(name)" or "")' 2>/dev/null)))
BIN := .venv/bin
INSTALLED := .venv/installed

PYTEST := $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal

.PHONY: test quick coverage reproduce

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PYTEST)

coverage: $(INSTALLED)
	$(PYTEST) --cov=rlsuite --cov-report=term --cov-fail-under=90

quick: $(INSTALLED)
	$(PYTEST) -m "not slow"

reproduce: $(INSTALLED)
	$(BIN)/python scripts/reproduce.py

# PyTorch first: where pip's index has no such build, it says so within seconds.
$(INSTALLED): setup.py pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found; type: make PYTHON=/path/to/it"; exit 1; }
	@echo "setting up .venv with the versions of constraints.txt: a minute or two"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq torch -c constraints.txt
	$(BIN)/python -m pip install -qq -e '.[dev]' -c constraints.txt
	@touch $@
