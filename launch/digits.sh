#!/usr/bin/env bash
# The first job to try: scikit-learn's digits on two nodes without GPUs, minutes long. From the project's folder:
#   hires prepare source=digits out=data/digits resolution=16 split.holdout=197
#   sbatch launch/digits.sh [key=value …]
#SBATCH --job-name=digits
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=1
#SBATCH --time=01:00:00
#SBATCH --signal=B:USR1@60
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=logs/%x-%j.log

cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" && source slurm/job.sh || exit
on_every_gpu train experiment=digits "$@"
