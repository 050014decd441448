# The only list of commands. Everything runs in .venv, made on first use from constraints.txt.
# A CPU build of torch saves gigabytes: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= python3.11
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile
STUDY ?= studies/digits.toml
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo install fmt check test test-all bench clean

demo: .venv/base.stamp  ## the main job: 60 runs on real digits, about five minutes on two cores, and at once when repeated
	$(BIN)/normlab run $(STUDY)

install: .venv/dev.stamp  ## everything a developer needs

test: .venv/dev.stamp  ## 10 to 15 minutes on two cores
	$(PYTEST) -m "not slow and not gpu"

test-all: .venv/dev.stamp  ## the slow ones too
	$(PYTEST)

check: .venv/dev.stamp  ## ruff, and pyright strict on src
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: .venv/dev.stamp  ## every layer, in copies; five minutes
	$(BIN)/python -m benchmarks.bench_layers

fmt: .venv/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/base.stamp: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable .
	@touch $@

.venv/dev.stamp: .venv/base.stamp
	$(INSTALL) --editable ".[dev,models,data,ray,s3,lightning,transformers]"
	@touch $@
