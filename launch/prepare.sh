#!/usr/bin/env bash
# Make a pyramid of shards on one node, with all its cores. From the project's folder, with the settings of `hires prepare`:
#   sbatch launch/prepare.sh path=celebahq out=data/celebahq resolution=1024 split.holdout=1000
#   bash launch/prepare.sh path=…                                             this machine, no Slurm
# Stopped or out of time, the job comes back and goes on shard by shard.
#SBATCH --job-name=prepare
#SBATCH --nodes=1
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=logs/%x-%j.log

cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" && source slurm/job.sh || exit
on_one_node prepare "$@"
