#!/usr/bin/env bash
# Grow the three networks on LSUN's churches from 4x4 to 256x256, on a node of 8 GPUs. From the project's folder:
#   sbatch launch/lsun_church_256.sh [key=value …]      docs/reference/slurm.md explains each line
#   bash launch/lsun_church_256.sh [key=value …]        this machine, all its GPUs, no Slurm
#SBATCH --job-name=lsun_church_256
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=logs/%x-%j.log

cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" && source slurm/job.sh || exit
on_every_gpu train experiment=lsun_church_256 "$@"
