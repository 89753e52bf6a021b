#!/usr/bin/env bash
# Grow the three networks on CIFAR-10 from 4x4 to 32x32, on one GPU. From the project's folder:
#   sbatch launch/cifar10.sh [key=value …]      docs/reference/slurm.md explains each line
#   bash launch/cifar10.sh [key=value …]        this machine, all its GPUs, no Slurm
#SBATCH --job-name=cifar10
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=logs/%x-%j.log

cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" && source slurm/job.sh || exit
on_every_gpu train experiment=cifar10 "$@"
