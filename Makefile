# Two commands do all: `make demo` and `make test`. Both create .venv where it does not exist yet.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA := data/demo

.PHONY: demo test lint bench clean
.DEFAULT_GOAL := demo

$(VENV)/.core: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed (make PYTHON=...)" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --editable '.[dev,filters,train,eval]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

$(VENV)/.filters: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --editable '.[filters]'
	@touch $@

demo: $(VENV)/.filters
	@$(BIN)/python -m builders.demo --data $(DATA) --all

test: $(VENV)/.dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest -n 2 --dist loadgroup

lint: $(VENV)/.dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

bench: $(VENV)/.bench
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) $(DATA) build *.egg-info
