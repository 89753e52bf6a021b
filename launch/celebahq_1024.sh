#!/usr/bin/env bash
# Grow generator, energy and inference model on CelebA-HQ from 4x4 to 1024x1024. From the project's folder:
#   sbatch launch/celebahq_1024.sh                                     4 nodes of 8 GPUs
#   sbatch --nodes=2 launch/celebahq_1024.sh train.max_images=6M       other resources, other settings
#   bash launch/celebahq_1024.sh                                       this machine, all its GPUs, no Slurm
# The same command again resumes from the newest checkpoint, on any number of GPUs. docs/reference/slurm.md explains each line.
#SBATCH --job-name=celebahq_1024
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=logs/%x-%j.log

cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" && source slurm/job.sh || exit
on_every_gpu train experiment=celebahq_1024 "$@"
