# Two commands do all: `make demo` and `make test`. Both create .venv where it does not exist yet, from locks/*.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA := demo
# Twice quiet: errors only, none of the warnings that a package index of one's own provokes.
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
UV := $(or $(shell command -v uv),.venv-lock/bin/uv)

.PHONY: demo docs test test-latest torture fuzz lint lock bench clean
.DEFAULT_GOAL := demo

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed (make PYTHON=...)" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)

# One lock: what it names and nothing else, by its hashes, then the project itself, built by what the lock holds.
$(VENV)/.%: locks/%.txt pyproject.toml | $(BIN)/python
	@$(PIP) install --no-deps --require-hashes --no-build-isolation --requirement $<
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# DeepSpeed is built on the spot, which takes the setuptools of a lock that is there already.
$(VENV)/.dev $(VENV)/.train: $(VENV)/.filters

demo: $(VENV)/.filters
	@$(BIN)/python -m builders.demo --data $(DATA)

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup

# Every system call of builders, proof, filters and pack fails once, of others one at each site: an hour of one core. `tests/torture.py --help` has smaller parts.
torture: $(VENV)/.dev
	$(BIN)/python tests/torture.py $(or $(TMPDIR),/tmp)/medgpt-torture --jobs build:slake build:medqa prove filter decide pack
	$(BIN)/python tests/torture.py $(or $(TMPDIR),/tmp)/medgpt-torture --sites --jobs stats verify_shards catalog answer score report export verify
	$(BIN)/python tests/torture.py $(or $(TMPDIR),/tmp)/medgpt-torture --always

# Ten thousand changed files for all commands: an hour of one core.
fuzz: $(VENV)/.dev
	$(BIN)/python tests/fuzz.py $(or $(TMPDIR),/tmp)/medgpt-fuzz

# The same tests on the newest of everything that pyproject.toml allows, in an environment of their own.
test-latest:
	$(MAKE) .venv-latest/bin/python VENV=.venv-latest
	.venv-latest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[filters,train,eval,dev]'
	.venv-latest/bin/python -m pytest -n 2 --dist loadgroup

lint: $(VENV)/.dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

# The site of docs/, in build/site; a warning is an error.
docs: $(VENV)/.filters $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

# Every version anew, for all platforms and Pythons; the smaller locks take theirs from that of `make test`.
COMPILE = $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --no-emit-index-url
lock: $(UV)
	$(COMPILE) pyproject.toml --group build --extra filters --extra dicom --extra train --extra eval --extra dev -o locks/dev.txt
	for extra in filters rewrites train eval docs; do \
	$(COMPILE) pyproject.toml --group build --extra $$extra -c locks/dev.txt -o locks/$$extra.txt || exit; done
	$(COMPILE) pyproject.toml --group build -c locks/dev.txt -o locks/core.txt
	$(COMPILE) --group interop -o locks/interop.txt

.venv-lock/bin/uv:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet uv

bench: $(VENV)/.dev
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) .venv-latest .venv-lock $(DATA) build *.egg-info
