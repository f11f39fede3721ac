# All targets need only python3 (3.11 or newer), make and the package index; they build what they need in .venv.
PYTHON ?= python3
BIN := .venv/bin
# A file at a time for each process, in the order of the files: the longest are not among the last. After a crash the
# other process would wait for ever for the one that takes its place, so none does.
TWO := -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

.PHONY: demo docs notebook test test-fast test-faults fuzz tpu lint types clean

demo: .venv/core
	$(BIN)/jaxdd demo

# The documentation site, in site/; every warning is an error.
docs: .venv-docs/done
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict
	@echo "site/index.html"

.venv-docs/done: requirements-docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install -q --no-compile --disable-pip-version-check -r requirements-docs.txt
	touch $@

# Executes the notebook, and kills it on the way.
notebook: .venv/notebook
	$(BIN)/python notebooks/execute.py

test: .venv/dev
	$(BIN)/python -m pytest $(TWO)

test-fast: .venv/dev
	$(BIN)/python -m pytest $(TWO) -m "not slow"

test-faults: .venv/dev
	$(BIN)/python -m pytest -n 2 --dist load -m faults tests

# Needs atheris, which is not among the requirements; RUNS is the number of inputs of each target.
RUNS ?= 100000
fuzz: .venv/dev
	PYTHONPATH=.:tests:$(PYTHONPATH) $(BIN)/python -m faults.fuzz -runs=$(RUNS) $(TARGETS)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/mypy

# Beside the environment and not in it, as JAX would look for a TPU wherever the package is installed.
tpu: .venv/tpu
	PYTHONPATH=.venv/tpu $(BIN)/python -m pytest tests/benchmarks/test_tpu.py

.venv/tpu: requirements-tpu.txt .venv/dev
	$(BIN)/pip install -q --disable-pip-version-check --target $@ --upgrade -r requirements-tpu.txt
	touch $@

.venv/core: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; use: make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --no-compile --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install -q --no-compile --disable-pip-version-check --no-deps --editable .
	touch $@

.venv/dev: requirements-dev.txt requirements-tfds.txt requirements-exchange.txt .venv/core
	$(BIN)/pip install -q --no-compile --disable-pip-version-check -r requirements-dev.txt
	touch $@

.venv/notebook: requirements-notebook.txt .venv/core
	$(BIN)/pip install -q --no-compile --disable-pip-version-check -r requirements-notebook.txt
	touch $@

clean:
	rm -rf .venv .venv-docs site runs
