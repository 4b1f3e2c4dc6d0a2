# make demo | test | lint | docs | clean. Everything lives in .venv; nothing outside it is touched.
PYTHON ?= python3
VENV   ?= .venv
# An exact release: an open range can pull several gigabytes of CUDA libraries that the tests don't need.
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: demo test lint format docs clean
.DEFAULT_GOAL := demo

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml | $(BIN)/python
	$(PIP) install -e .
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(PIP) install "$(TORCH)"
	$(PIP) install -e ".[graphblas,torch,nvrtc,plots,onnx,baselines,dev]"
	@touch $@ $(VENV)/.base

demo: $(VENV)/.base  ## the official 1024-neuron, 120-layer challenge, end to end
	$(BIN)/spdnn challenge --neurons 1024 --layers 120

test: $(VENV)/.test  ## the whole test suite
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadscope

lint: $(VENV)/.test  ## style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.test
	$(PIP) install -e ".[docs]"
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .hypothesis
