# make demo   train six arms on an embedded video world and compare them: runs/demo/report.html
# make test   all tests          make check  lint, format, types
# make bench  all benchmarks, written to docs/BENCHMARKS.md
# The first of them installs the package into .venv. PYTHON is the interpreter it is made from.

PYTHON ?= python3
BIN := .venv/bin
# One thread a process: two OpenMP threads on two cores collapse as soon as anything else runs.
ONE_THREAD := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
OFFLINE := HF_HUB_OFFLINE=1 WANDB_MODE=offline

.PHONY: demo test check bench

demo: .venv/.installed
	$(OFFLINE) $(ONE_THREAD) $(BIN)/whilst demo

test: .venv/.installed
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2

check: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.installed
	$(OFFLINE) $(ONE_THREAD) $(BIN)/python -m benchmarks

# Compiled once here, because where PYTHONDONTWRITEBYTECODE is set every start would compile torch anew. compileall
# returns 1 for the templates that some wheels ship as .py files; they are never imported.
.venv/.installed: setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	-$(BIN)/python -m compileall -q -j 0 .venv/lib >/dev/null 2>&1
	touch $@
