#!/usr/bin/env bash
# Trains on several machines under Slurm (docs/cluster.md): starts Ray on each of the job's machines, then the run.
#   sbatch --nodes 2 examples/scripts/train_lens_slurm.sh --profile llama3.1-8b --gpus 16 --logger.run_dir /shared/one
# With COMMAND=compare it makes one of the paper's tables:
#   export COMMAND=compare
#   sbatch --nodes 2 examples/scripts/train_lens_slurm.sh examples/compare/table1_llama3.1-8b.yaml --gpus 16
# Submitted again with the same run folder, a run goes on from its last checkpoint.
#SBATCH --job-name=lens
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=2-00:00:00
#SBATCH --output=lens-%j.log
# Two minutes before the time is over the run is told to stop, so that it leaves nothing running.
#SBATCH --signal=B:TERM@120
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start this with sbatch, from the folder of the project}"
export PATH="$PWD/.venv/bin:$PATH"

mapfile -t machines < <(scontrol show hostnames "${SLURM_JOB_NODELIST:?}")
head=${machines[0]}
head_ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname -I | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000))
# Otherwise vLLM's processes outlive the actors that started them.
export RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper=true
export RAY_ADDRESS="$head_ip:$port"
gpus=${SLURM_GPUS_ON_NODE:?ask Slurm for GPUs with --gpus-per-node}
cpus=${SLURM_CPUS_ON_NODE:?}

start_ray() { # MACHINE OPTION...: in the background, for as long as the job lasts
  local machine=$1
  shift
  env -u RAY_ADDRESS srun --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --overlap --nodelist="$machine" \
    ray start "$@" --num-gpus "$gpus" --disable-usage-stats --block &
}

start_ray "$head" --head --node-ip-address "$head_ip" --port "$port" --include-dashboard=false
for _ in $(seq 60); do
  ray health-check --address "$RAY_ADDRESS" 2> /dev/null && break
  sleep 2
done
ray health-check --address "$RAY_ADDRESS" || {
  echo "error: Ray did not start on $head within two minutes" >&2
  exit 1
}
for machine in "${machines[@]:1}"; do
  start_ray "$machine" --address "$RAY_ADDRESS"
done

# The run waits for all GPUs to join. It runs in the background so that the signal reaches it.
lens-openrlhf "${COMMAND:-train}" "$@" &
run=$!
trap 'kill -TERM "$run"' TERM INT
status=0
wait "$run" || status=$?
# A wait that the signal cut short; the run is still ending.
while kill -0 "$run" 2> /dev/null; do
  wait "$run" || status=$?
done
exit "$status"
