#!/usr/bin/env bash
# Resolves requirements/gpu.txt beside torch for CUDA into requirements/gpu_constraints.txt, without installing it: neither
# a GPU nor CUDA is needed. flash-attn asks the torch of its environment for a version, so one for the CPU is there.
set -euo pipefail
cd "$(dirname "$0")"
python=${1:-python3.11}
cpu_index=${2:-https://download.pytorch.org/whl/cpu}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" -m venv "$scratch/venv"
pip=("$scratch/venv/bin/python" -m pip --disable-pip-version-check)

# With setuptools 77.0 torch's BuildExtension takes no options, and DeepSpeed, which gives it one, is not built.
build=(ninja==1.13.2 setuptools==80.10.2 wheel packaging psutil)
"${pip[@]}" install --quiet --extra-index-url "$cpu_index" "torch==2.13.0+cpu" "${build[@]}"
# Three equals signs: not a build for the CPU, which pip takes for the same version.
FLASH_ATTENTION_SKIP_CUDA_BUILD=TRUE "${pip[@]}" install --quiet --dry-run --ignore-installed --no-build-isolation \
  --report "$scratch/report.json" "torch===2.13.0" "${build[@]}" -r gpu.txt
"$scratch/venv/bin/python" - "$scratch/report.json" > "$scratch/constraints.txt" << 'EOF'
import json
import sys

print("# Made by requirements/lock_gpu.sh from gpu.txt: every package of the CUDA stack, for pip's -c.")
packages = [entry["metadata"] for entry in json.load(open(sys.argv[1]))["install"]]
print("\n".join(sorted((f"{p['name']}=={p['version']}" for p in packages), key=str.lower)))
EOF
mv "$scratch/constraints.txt" gpu_constraints.txt
