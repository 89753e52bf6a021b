#!/usr/bin/env bash
# Make a pyramid of shards, on one node or on several, with all their cores. From the project's folder, with the settings of `hires prepare`:
#   sbatch launch/prepare.sh path=celebahq out=data/celebahq resolution=1024 split.holdout=1000
#   sbatch --array=1-4 launch/prepare.sh path=…                               four nodes, every fourth shard each
#   bash launch/prepare.sh path=…                                             this machine, no Slurm
# Stopped or out of time, a job comes back and continues shard by shard.
#SBATCH --job-name=prepare
#SBATCH --nodes=1
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=logs/%x-%j.log

cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" && source slurm/job.sh || exit
# shellcheck disable=SC2153 # Slurm's names
[[ -z ${SLURM_ARRAY_TASK_ID:-} ]] || set -- "$@" "part=$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN + 1))/$SLURM_ARRAY_TASK_COUNT"
on_one_node prepare "$@"
