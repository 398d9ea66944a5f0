# Every target makes .venv itself when it is missing or older than what it is made from.
PYTHON ?= python3
# TORCH_INDEX: an extra package index, for CPU-only torch builds where the default index serves CUDA ones (README).
PIP = .venv/bin/python -m pip install --disable-pip-version-check --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

# Idle threads of tests spin a thirtieth of the usual time: on a busy machine the others take a core that is needed (LOG.md).
export GOMP_SPINCOUNT ?= 10000

.PHONY: demo test test-all promises check fix bench size

demo: .venv/.run
	.venv/bin/shinan run recipes/quickstart.yaml

test: check
	.venv/bin/python -m pytest -m "not slow"

test-all: check
	.venv/bin/python -m pytest

promises: .venv/.dev
	.venv/bin/python -m tests.promises

check: .venv/.dev
	.venv/bin/ruff format --check --quiet .
	.venv/bin/ruff check --quiet .
	.venv/bin/mypy

fix: .venv/.dev
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

# BUDGET: minutes; without it everything is measured whole, in some six hours.
bench: .venv/.bench
	.venv/bin/python -m bench $(if $(BUDGET),--budget $(BUDGET))

size: .venv/.dev
	.venv/bin/python -m bench.size

.venv/.run: pyproject.toml constraints.txt
	@echo "Installing into .venv (about a minute, more where torch is not cached)"
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(PIP) --constraint constraints.txt --editable .
	touch $@

.venv/.dev: .venv/.run
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv/.bench: .venv/.dev
	$(PIP) --constraint constraints.txt --editable '.[bench]'
	touch $@
