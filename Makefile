# `make` alone lists the targets. Everything runs in $(VENV), made at the first call.

PYTHON ?= python3
VENV ?= .venv
# Options for pip, such as an index with CPU builds of torch.
PIP_OPTIONS ?=
# Dataset of Blue Marble windows: ecomap data import bluemarble MOSAICS --output data/bluemarble
DATASET ?= data/bluemarble
# Folder of STAC items and their files, for `make check-prep`.
ITEMS ?= ../shared/data/stac_s2_mini
# Settings of `make evaluate-tiny`, such as num_places=12 "months=[1, 7]".
SETTINGS ?=
# Tests run side by side, a file at a time; each worker holds about 1.5 GB.
WORKERS ?= logical --maxprocesses 4

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := ecomap data_prep tests $(wildcard benchmarks notebooks)
NOTEBOOKS := $(wildcard notebooks/*.ipynb)

.DEFAULT_GOAL := help
.PHONY: help install demo test check lint types fix evaluate-tiny bench bench-train bench-evolve \
  evolve-tiny check-prep \
  check-sd3-medium check-train train-tiny clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(STAMP) ## make the environment with the pinned set

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; choose one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): about 7 GB with CUDA's libraries, a few minutes the first time."
	@start=$$(date +%s); \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) \
	    --constraint constraints.txt --editable '.[dev]' && \
	  echo "Installed in $$(( $$(date +%s) - start )) s: $$(du -sh $(VENV) | cut -f1) in $(VENV)."
	@touch $@

demo: $(STAMP) ## images of six places under many climates, as one page
	$(BIN)/ecomap demo --output runs/demo
	@echo "Open runs/demo/index.html in a browser."

test: $(STAMP) ## all tests, notebooks included
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile \
	  $(if $(NOTEBOOKS),--nbmake $(NOTEBOOKS)) tests ecomap data_prep

check: lint types test ## what must pass before a change is accepted

lint: $(STAMP) ## format and lint, changing nothing
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

fix: $(STAMP) ## format, and mend what the linter can mend
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

evaluate-tiny: $(STAMP) ## score the shipped model on places it never saw, in the dataset DATASET
	$(BIN)/ecomap evaluate --reference $(DATASET) --bundle ecomap-tiny --output runs/evaluate $(SETTINGS)

bench: $(STAMP) ## speed and memory of the evaluation against the usual ways
	$(BIN)/python -m benchmarks.evaluate --output runs/bench_evaluate.json

bench-train: $(STAMP) ## speed of training against EcoMapper's way and the usual loop, on DATASET
	$(BIN)/python -m benchmarks.train $(DATASET) --output runs/bench_train.json

bench-evolve: $(STAMP) ## speed of a sequence against the stock ControlNet pipeline
	$(BIN)/python -m benchmarks.evolve --output runs/bench_evolve.json

evolve-tiny: $(STAMP) ## skill of the shipped bundle from a start month, on held-out blocks of DATASET
	$(BIN)/python -m benchmarks.evolve_skill $(DATASET) --bundle ecomap-tiny --cases 24 --output runs/evolve_skill

check-sd3-medium: $(STAMP) ## one LoRA and one ControlNet step at the size of Stable Diffusion 3 medium
	$(BIN)/python -m benchmarks.sd3_medium --output runs/sd3_medium.json

check-train: $(STAMP) ## kill a training at many moments and compare the bytes of what it leaves
	$(BIN)/python -m tests.train_kill

check-prep: $(STAMP) ## kill a preparation at 20 moments, compare bytes, and measure its speed
	$(BIN)/python -m tests.kill_prep $(ITEMS)
	$(BIN)/python -m benchmarks.prep --output runs/prep.json

train-tiny: $(STAMP) ## train the shipped bundle again, one network after the other
	$(BIN)/ecomap train configs/tiny/autoencoder.yaml --output runs/autoencoder
	$(BIN)/ecomap train configs/tiny/base.yaml --output runs/base
	$(BIN)/ecomap train configs/tiny/features.yaml --output runs/features
	$(BIN)/ecomap train configs/tiny/evolve.yaml optim.steps=2000 optim.decay_steps=700 \
	  --output runs/evolve_first
	$(BIN)/ecomap train configs/tiny/evolve.yaml learn.controlnet.start=runs/evolve_first/controlnet seed=1 \
	  shift=5 optim.steps=800 optim.learning_rate=4e-4 optim.warmup_steps=50 optim.decay_steps=600 \
	  --output runs/evolve

clean: ## remove the environment and caches; runs/ and data/ stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
