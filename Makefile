# `make demo` and `make test` need Python 3.11 or newer and make, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint check bench reproduce verdicts columns clean
TIER ?= quick

demo: $(VENV)/installed
	@seen=$$($(BIN)/sharp train) && run=$$(echo "$$seen" | head -n 1 | cut -d: -f1) && \
	picture=$$($(BIN)/sharp plot sharpness "$$run") && echo "picture: $$picture" && echo "$$seen"

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

# every claim of a tier, and the table of verdicts that the README holds; `make reproduce-sam_radius` is one claim
reproduce: $(VENV)/installed
	$(BIN)/sharp claim check --tier $(TIER)

reproduce-%: $(VENV)/installed
	$(BIN)/sharp claim check $*

verdicts: $(VENV)/installed
	$(BIN)/sharp claim list --markdown > docs/verdicts.md
	sed -i -e '/<!-- verdicts -->/,/<!-- end -->/{//!d}' -e '/<!-- verdicts -->/r docs/verdicts.md' README.md

# docs/columns.md, from the docstrings of the measures
columns: $(VENV)/installed
	$(BIN)/python -m sharpcli.commands.columns > docs/columns.md

bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	$(BIN)/python benchmarks/side_by_side.py
	$(BIN)/python benchmarks/tracking.py
	$(BIN)/python benchmarks/products.py
	$(BIN)/python benchmarks/steps.py
	$(BIN)/python benchmarks/commands.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/toys.py
	$(BIN)/python benchmarks/reproduce.py

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sharp needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV)
