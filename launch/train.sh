#!/usr/bin/env bash
# Any experiment on one GPU, such as those of the papers' tables (docs/records/claims.md estimates how long each takes).
#   sbatch launch/train.sh experiment=latent_ebm data.root=data/cifar10 [key=value …]      docs/reference/slurm.md explains each line
#   bash launch/train.sh experiment=f_ebm objective.divergence=kl run=runs/f_ebm_kl        this machine, all its GPUs, no Slurm
#SBATCH --job-name=train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=logs/%x-%j.log

cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" && source slurm/job.sh || exit
on_every_gpu train "$@"
