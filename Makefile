# Two commands are all a newcomer must know: `make quickstart` and `make test`. Both build .venv once and reuse it.
PYTHON ?= python3
BIN := .venv/bin
TWO_AT_A_TIME := --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 10

.PHONY: .rooms setup quickstart test test-long fast check lint types imports spelling hooks bench clean

setup: .venv/ready

# uv installs everything in about half a minute; pip alone needs several.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Sightline needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "installing Sightline into .venv (a minute or two; byte code is compiled once, because every worker process imports torch)"
	@$(BIN)/uv pip uninstall --quiet --python $(BIN)/python sightline 2>/dev/null || true  # its name before it was sightline-pretext
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: setup
	@$(BIN)/sightline quickstart
	@echo "(first: . .venv/bin/activate puts sightline and mlflow on the path)"

# Files of tests run two at a time: each starts a Ray of its own and waits for it half of its time.
test: check
	$(BIN)/python -m pytest $(TWO_AT_A_TIME)

# Long proofs: many kills, several nodes, whole sweeps. By hand, before changes to faults, clusters or sweeps are landed.
test-long: setup
	$(BIN)/python -m pytest -m long $(TWO_AT_A_TIME)

fast: setup
	$(BIN)/python -m pytest -m "not slow" $(TWO_AT_A_TIME)

check: lint types imports spelling

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: .rooms
	@$(BIN)/mypy -p sightline

imports: .rooms
	@cd .rooms && ../$(BIN)/lint-imports --no-logo --cache-dir ../.import_linter_cache ../.importlinter

# The package-dir mapping of pyproject.toml as links, for tools that do not follow it.
.rooms: setup
	@mkdir -p .rooms/sightline && for room in methods platform pipelines; do ln -sfn $(CURDIR)/$$room .rooms/sightline/$$room; done

spelling: setup
	@$(BIN)/codespell .

hooks: setup
	@$(BIN)/pre-commit install

bench: setup
	$(BIN)/python benchmarks/ingest.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/tokeniser.py
	$(BIN)/python benchmarks/teacher.py

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .rooms .import_linter_cache
