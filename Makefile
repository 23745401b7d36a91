# `make mini` and `make test` need nothing but Python 3.10+, make and an index to install from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: mini test test-all setup check format clean

mini: $(STAMP)  ## set up, then the main job: two models trained and compared
	PATH="$(abspath $(BIN)):$$PATH" recipes/mini/run.sh

# in the files' own order: by number of tests the few long ones would come last, for one process alone
test: $(STAMP)  ## set up, then the tests of every day
	PYTHONSAFEPATH=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: $(STAMP)  ## everything: the full product of cases too (hardware tests skip themselves)
	PYTHONSAFEPATH=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m ''

setup: $(STAMP)  ## only set up .venv

check: $(STAMP)  ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy asr kernels/sigmoid_attention tools

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# constraints.txt pins what the tests were run with; pyproject.toml states what is needed
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info kernels/build kernels/*.egg-info
