#!/usr/bin/env bash
# Submits a training run to a Ray cluster (docs/cluster.md). On the head, then on every other machine:
#   ray start --head --num-gpus 8
#   ray start --address HEAD:6379 --num-gpus 8
# Then, on the head (HEAD names its address where it was started with --dashboard-host):
#   PROFILE=llama3.1-8b GPUS=16 bash examples/scripts/train_lens_ray.sh --logger.run_dir /shared/one
#
# Start Ray where lens-openrlhf is on the PATH. The project's folder and the run folder must lie at the same paths on
# all machines, on a disk that they share.
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
address="http://${HEAD:-127.0.0.1}:8265"
# Ray hands the words to a shell on the head.
exec ray job submit --address "$address" -- cd "$project" '&&' \
  exec lens-openrlhf train --profile "${PROFILE:-llama3.1-8b}" --gpus "${GPUS:-16}" "$@"
