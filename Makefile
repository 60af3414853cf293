# make demo    train, export, verify, build and validate on real data
# make test    lint and all default tests
# make lint    ruff and mypy --strict
# make samples the slow samples and tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint samples bench clean

$(READY): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "nm2trt needs Python 3.10 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[torch,ort,rtx,calib,report,dev]'
	@touch $@

demo: $(READY)
	$(BIN)/python samples/01_digits/train.py --out results/01_digits

test: lint
	$(BIN)/python -m pytest --numprocesses 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

samples: $(READY)
	$(BIN)/python -m pytest -m slow

bench: $(READY)
	for script in startup mask verify graph build train_step; do $(BIN)/python benchmarks/$$script.py || exit; done

clean:
	rm -rf $(VENV) results .mypy_cache .pytest_cache .ruff_cache
