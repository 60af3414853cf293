# make demo    train, export, verify, build and validate on real data
# make test    lint and all default tests
# make lint    ruff and mypy --strict
# make serve-env  a real tritonserver for the tests, the samples and `nm2trt serve`
# make trt-env  TensorRT 8.6 for Python 3.10, and the tests that need it (1 GB to download)
# make typecheck-trt  the TensorRT backend against TensorRT's own types
# make gpu-evidence OUT=DIR  every GPU check on this machine, as figures, logs and a summary; one sentence without a GPU
# make fuzz    10,000 runs of commands on damaged files, each with a memory and a time limit; prints the counts
# make samples the slow samples and tests
# make release VERSION=X.Y.Z  version, changelog, sdist and wheel, their checks, commit and tag
# make bench-quick  two minutes of ratios; what moved by more than 15 % from the committed ones
# make bench   the benchmarks whose results are in benchmarks/results
# make docs    the site in results/site; a warning is an error
# make clean   remove environments, caches and results
# make help    this list
PYTHON ?= python3
VENV ?= .venv
SERVE_ENV ?= .serve-env
TRT_ENV ?= .trt-env
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NEW_ENOUGH := @$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "nm2trt needs Python 3.10 or newer: make PYTHON=python3.11 ...")'

.PHONY: help demo test lint fuzz samples bench bench-quick clean serve-env trt-env typecheck-trt gpu-evidence release docs

$(READY): setup.cfg pyproject.toml constraints.txt
	$(NEW_ENOUGH)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[torch,ort,rtx,serving,recipes,report,dev]'
	@touch $@

help:
	@sed -n 's/^# \(make .*\)/\1/p' $(firstword $(MAKEFILE_LIST))

demo: $(READY)
	$(BIN)/python samples/01_digits/train.py --out results/01_digits

$(SERVE_ENV)/.ready: tools/serve_env.sh constraints-serve.txt
	tools/serve_env.sh $(SERVE_ENV)

serve-env: $(SERVE_ENV)/.ready

$(TRT_ENV)/.ready: tools/trt_env.sh constraints-trt86.txt
	tools/trt_env.sh $(TRT_ENV)

trt-env: $(TRT_ENV)/.ready
	$(TRT_ENV)/bin/python -m pytest -m "trt and not gpu" tests/trt

typecheck-trt: $(READY)
	$(BIN)/python tools/trt_typecheck.py

out-is-named: # before an environment is made for nothing
	@test -n "$(OUT)" || { echo "name the folder: make gpu-evidence OUT=DIR" >&2; exit 2; }

gpu-evidence: out-is-named
	$(NEW_ENOUGH)
	@$(PYTHON) tools/gpu/ask.py
	@$(MAKE) --no-print-directory $(READY)
	@TRT_ENV="$(TRT_ENV)" $(BIN)/python tools/gpu/evidence.py "$(OUT)"

test: lint
	@$(MAKE) --no-print-directory serve-env || echo "The tests that need a real tritonserver are skipped: it could not be installed, see above."
	@$(BIN)/python -m compileall -q -j 2 nm2trt # once, not in every process that a test starts
	@# What plugins import is compiled by pytest itself, with its assertions; kept, the tests' modules are compiled once.
	PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 PYTHONDONTWRITEBYTECODE= \
		$(BIN)/python tools/in_memory.py $(BIN)/python -m pytest -p xdist --numprocesses 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fuzz: $(READY)
	$(BIN)/python -m tests.hostile.fuzz --runs 10000

samples: $(READY)
	$(BIN)/python -m pytest -m slow

bench: $(READY)
	for script in startup mask verify graph build train_step spre fcpts report model_py bench_overhead; do $(BIN)/python benchmarks/$$script.py || exit; done

bench-quick: $(READY)
	$(BIN)/python benchmarks/quick.py

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

release: $(READY)
	@test -n "$(VERSION)" || { echo "name the version: make release VERSION=0.3.0" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[release]'
	$(BIN)/python tools/release.py "$(VERSION)"

clean:
	rm -rf $(VENV) $(SERVE_ENV) $(TRT_ENV) results dist build .mypy_cache .pytest_cache .ruff_cache
