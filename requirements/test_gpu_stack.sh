#!/usr/bin/env bash
# Installs the GPU stack for real and tries what of it needs no GPU, on any machine that has nvcc: by the steps of README,
# the Makefile and the Dockerfile, and with the tests below beside vLLM for CUDA.
#
#   requirements/test_gpu_stack.sh PYTHON ENVIRONMENT [pytest's options]
#
# One thing differs: flash-attn comes without its kernels, which are long in compiling, and goes again before the tests,
# as it cannot be imported without them. An environment that is as new as the lists is used again.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 environment=$2
shift 2
# What touches the stack, and needs neither a device nor a vLLM that samples.
tests=(tests/training tests/outside tests/test_cli.py tests/test_doctor.py tests/test_imports.py tests/test_requirements.py)
free_gib=15  # of disk: the environment, and the wheels while they are unpacked

fail() {
  echo "error: test-gpu-stack: $*" >&2
  exit 1
}

step() {  # step WHAT REMEDY COMMAND…
  local what=$1 remedy=$2 status=0
  shift 2
  echo "== $what"
  "$@" || status=$?
  ((status == 0)) || fail "$what: ended with status $status; $remedy"
}

as_new_as() {
  [[ $environment/.stack -nt $1 ]]
}

"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
  fail "$python is not Python 3.11, for which alone OpenRLHF is published: make test-gpu-stack PYTHON=/path/to/python3.11"
command -v nvcc > /dev/null || fail 'nvcc is not on PATH, and our CUDA library is built here: install the CUDA toolkit 13.0'

export PATH=$environment/bin:$PATH VIRTUAL_ENV=$environment PYTHONWARNINGS='ignore:The pynvml package:FutureWarning'
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=requirements/gpu_constraints.txt
# pip would keep the flash-attn without kernels, and give it to whoever installs one with them later.
export PIP_NO_CACHE_DIR=1
if ! as_new_as requirements/gpu.txt || ! as_new_as requirements/gpu_constraints.txt; then
  rm -rf "$environment"
  free=$(df --output=avail --block-size=1G "$(dirname "$environment")" | tail -n 1 | tr -d ' ')
  ((free >= free_gib)) || fail "$free GiB of disk are free for $environment, and installing it takes $free_gib: free some"
  step 'an environment' 'name a Python 3.11 that has venv: make test-gpu-stack PYTHON=/path/to/python3.11' \
    "$python" -m venv "$environment"
  remedy='pip says why above; what the index no longer has, or what no longer fits, "make lock" resolves anew'
  step 'torch for CUDA, and what the others are built with' "$remedy" \
    pip install --quiet "torch===2.13.0" wheel ninja setuptools packaging psutil
  step 'the GPU stack' "$remedy" \
    env FLASH_ATTENTION_SKIP_CUDA_BUILD=TRUE pip install --quiet --no-build-isolation -r requirements/gpu.txt
  step 'pip check' "$remedy" pip check
  step 'flash-attn without kernels goes' "$remedy" pip uninstall --quiet --yes flash-attn
  touch "$environment/.stack"
fi

# From a copy: installed from here, the libraries would take the place of those that .venv has.
source=$environment/source
mkdir -p "$source"
find "$source" -mindepth 1 -maxdepth 1 ! -name build -exec rm -r {} +
tar -c --exclude-vcs --exclude='./.venv*' --exclude='./build' --exclude='./runs' --exclude='./data' --exclude='*.so' \
  --exclude='*.egg-info' --exclude=__pycache__ . | tar -x -C "$source"
cd "$source"

# The same everywhere: a GPU that the machine may have stays out of it.
export CUDA_VISIBLE_DEVICES='' DS_ACCELERATOR=cpu
step 'the extension, with its CUDA library' 'the compiler says why above' \
  env LENS_BUILD_CUDA=1 pip install --quiet --no-deps --no-build-isolation -e .
step 'the CUDA library loads' 'the line above names the remedy' python -c \
  'import sys; from lens_openrlhf.advantages import extension; sys.exit(extension.cuda_problem)'
step 'a plan for GPUs' 'the line above says what stands against it' \
  lens-openrlhf train --profile qwen2.5-3b --gpus 4 --dry_run
echo '== doctor (a GPU is all that may be missing; the tests see to that)'
lens-openrlhf doctor || true
step 'the tests' 'see above' python -m pytest "$@" "${tests[@]}"
