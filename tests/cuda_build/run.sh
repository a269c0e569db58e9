#!/usr/bin/env bash
# make test-cuda-build: builds the extension beside a CUDA build of torch, installs it and tests it there. Needs nvcc, no
# GPU. The environment is .venv-cuda, made anew when another torch or Python is asked for:
#
#   TORCH=2.11.0 PYTHON=python3.12 bash tests/cuda_build/run.sh [arguments for pytest]
set -euo pipefail
cd "$(dirname "$0")/../.."
torch=${TORCH:-2.13.0} python=${PYTHON:-python3.11} venv=$PWD/.venv-cuda
pip=("$venv/bin/python" -m pip --disable-pip-version-check)

# What the tests import or run; Python 3.10 gets what is still published for it.
tools='setuptools|wheel|pytest|hypothesis|torch-abi-audit|nvidia-cuda-cuobjdump|nvidia-cuda-nvdisasm'
mapfile -t pinned < <(grep -E "^($tools)==" requirements/cpu.txt)
old=("setuptools>=77,<81" wheel pytest hypothesis nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm)

asked="torch $torch, $("$python" --version), ${pinned[*]}"
if [ "$(cat "$venv/.made" 2> /dev/null)" != "$asked" ]; then
  echo "making .venv-cuda: torch $torch, $("$python" --version) (3 GB to download) …"
  rm -rf "$venv"
  "$python" -m venv "$venv"
  # Three equals signs: a CPU build is 2.13.0 as well to two.
  "${pip[@]}" install -qq "torch===$torch" numpy \
    "${pinned[@]/%/; python_version > \'3.10\'}" "${old[@]/%/; python_version <= \'3.10\'}"
  echo "$asked" > "$venv/.made"
fi

# From a copy: installed from here, the libraries would take the place of those that .venv has.
mkdir -p "$venv/source"
find "$venv/source" -mindepth 1 -maxdepth 1 ! -name build -exec rm -r {} +
tar -c --exclude='*.so' --exclude=__pycache__ setup.py pyproject.toml README.md LICENSE csrc docs lens_openrlhf \
  benchmarks requirements tests Dockerfile | tar -x -C "$venv/source"
cd "$venv/source"
echo "building the extension …"
LENS_BUILD_CUDA=1 "${pip[@]}" install -qq --no-deps --no-build-isolation -e .
"$venv/bin/python" -m pytest tests/cuda_build tests/advantages "$@"
