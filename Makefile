# Parley's commands. `make` alone lists them.

VENV := .venv
BIN := $(VENV)/bin

# Where `make run` starts from; all settings: `make settings`.
PORT ?= 8000
CONCURRENCY ?= all=1
DRAIN_S ?= 3

# How many tests run at once.
JOBS ?= 3

PYTHON ?= python3.12 python3.11 python3
PYTHON_FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
PINNED := deploy/constraints.txt
# An index of PyTorch's own with another build of torch than PyPI's: CPU only, or for another CUDA.
TORCH ?=
# A virtual environment whose Python has gone is no virtual environment.
STALE := $(if $(wildcard $(BIN)/python),,FORCE)

.DEFAULT_GOAL := help
.PHONY: help run models settings test check format bench bench-models bench-bundle chaos clean FORCE

help: ## list the commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20
	@echo
	@echo '  make run PORT=9000 CONCURRENCY=llm=2,tts=3   another port, more workers'
	@echo '  make models TORCH=https://download.pytorch.org/whl/cpu   torch from this index (here: without CUDA)'
	@echo '  make run PYTHON=/usr/bin/python3.11          which Python to make $(VENV) with (3.11 or 3.12)'

run: $(VENV)/base ## start everything, and stop it on Ctrl-C
	@export PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONUNBUFFERED=1 \
		PORT='$(PORT)' CONCURRENCY='$(CONCURRENCY)' DRAIN_S='$(DRAIN_S)'; \
	python -m deploy.cli settings --check && \
	exec python -m honcho start --no-prefix --port "$$PORT" --concurrency "$$CONCURRENCY"

models: $(VENV)/models ## add what Voxtral, Kokoro and LLM_ENGINE=openai need (1.9 GB, more with CUDA)

settings: $(VENV)/base ## print every setting: its value, default, bounds and meaning
	@$(BIN)/python -m deploy.cli settings

test: $(VENV)/dev ## run the tests; ARGS='-k log -x' are pytest's
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal $(ARGS)

check: $(VENV)/dev ## check format, lint and types
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m mypy

format: $(VENV)/dev ## put the source into its format
	@$(BIN)/python -m ruff format .
	@$(BIN)/python -m ruff check --fix .

bench: $(VENV)/dev ## measure the latencies
	@$(BIN)/python -m tests.bench $(ARGS)

bench-models: $(VENV)/dev ## measure Voxtral and Kokoro at full size, on CUDA if there is one (9 minutes)
	@$(BIN)/python -m tests.bench.models $(ARGS)

bench-bundle: $(VENV)/base ## fetch what bench-models needs on a machine without network, into .bundle/
	@PYTHON=$(BIN)/python bash tests/bench/models/bundle.sh

chaos: $(VENV)/dev ## break everything, and check that no word is lost; ARGS='--seed 7 --duration 60'
	@$(BIN)/python -m tests.chaos $(ARGS)

clean: ## remove what the other commands made, but no data
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/base: pyproject.toml $(PINNED) $(STALE)
	@if ! $(BIN)/python -c '$(PYTHON_FITS)' 2>/dev/null; then \
		for python in $(PYTHON); do \
			if $$python -c '$(PYTHON_FITS)' 2>/dev/null; then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo 'Parley needs Python 3.11 or 3.12; found none as: $(PYTHON). Name one: make PYTHON=…' >&2; exit 1; \
		fi; \
		$$found -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }; \
	fi
	@echo 'Installing into $(VENV) (once, about a minute) …'
	@$(PIP) install --constraint $(PINNED) --editable .
	@touch $@

# Not compiled to bytecode, for most of it is never imported: what is, the first import compiles.
$(VENV)/models: $(VENV)/base $(if $(TORCH),FORCE)
	@echo 'Installing the models into $(VENV) (once, some minutes) …'
	@$(if $(TORCH),$(PIP) install --constraint $(PINNED) --index-url '$(TORCH)' --force-reinstall --no-deps torch)
	@$(PIP) install --no-compile --constraint $(PINNED) --editable '.[models,openai]'
	@touch $@

$(VENV)/dev: $(VENV)/models
	@echo 'Installing what the tests and checks need …'
	@$(PIP) install --no-compile --constraint $(PINNED) --editable '.[dev,models,openai]'
	@touch $@
