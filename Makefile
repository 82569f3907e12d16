# `make demo` and `make test` need Python 3.11 or newer and make, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test torture test-cluster lint check bench gpu reproduce verdicts columns docs clean
TIER ?= quick
# the share of the torture in per cent, and the seed of its choices; `make test` does 2 %
SHARE ?= 100
SEED ?= 1

demo: $(VENV)/installed
	@seen=$$($(BIN)/sharp train) && run=$$(echo "$$seen" | head -n 1 | cut -d: -f1) && \
	picture=$$($(BIN)/sharp plot sharpness "$$run") && echo "picture: $$picture" && echo "$$seen"

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2

# kills, damaged and hostile files, wrong words, leaks, edges: see docs/reliability.md; about 30 minutes on two idle cores
torture: $(VENV)/installed
	@echo "share $(SHARE) %, seed $(SEED); a failure names its case: SHARP_TORTURE_SEED=$(SEED) SHARP_TORTURE_CASE=..."
	SHARP_TORTURE=$(SHARE) SHARP_TORTURE_SEED=$(SEED) $(BIN)/python -m pytest tests/torture -n 2 --dist worksteal --durations=10

# sweeps on a Slurm of one node, of Debian's packages and as root, and on a cluster of Ray's; what cannot be had is skipped
test-cluster: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e '.[test,ray]'
	SHARP_CLUSTER=1 $(BIN)/python -m pytest tests/cluster -rs --durations=5

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

# the table of all claims and of the talk's slides for docs/, with their figures, and six of its rows for the README
README_CLAIMS := eos_cifar10|label_noise_constant|sparse_recovery|sam_cifar10|large_lr_cifar10|label_noise_cifar10
verdicts: $(VENV)/installed
	$(BIN)/sharp claim list --markdown > docs/verdicts.md
	$(BIN)/python docs/gen_talk.py runs/claims
	@grep -E '^\| claim|^\|---|^\| `($(README_CLAIMS))`' docs/verdicts.md | cut -d'|' -f1-5 | sed 's/$$/|/' > .verdicts
	sed -i -e '/<!-- verdicts -->/,/<!-- end -->/{//!d}' -e '/<!-- verdicts -->/r .verdicts' README.md
	@rm .verdicts

bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	$(BIN)/python benchmarks/side_by_side.py
	$(BIN)/python benchmarks/own_loop.py
	$(BIN)/python benchmarks/tracking.py
	$(BIN)/python benchmarks/products.py
	$(BIN)/python benchmarks/steps.py
	$(BIN)/python benchmarks/images.py
	$(BIN)/python benchmarks/commands.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/toys.py
	$(BIN)/python benchmarks/reproduce.py

# on a machine with a graphics card, in at most eight minutes: products, ResNet-18 to 94 %, claims of tier gpu
gpu: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	$(BIN)/python benchmarks/gpu.py

# a site of docs/, conf/ and the docstrings, in site/; its search needs a web server, as the last line says
docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/ is built: $(BIN)/python -m http.server -d site shows it at http://localhost:8000"

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sharp needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV)
