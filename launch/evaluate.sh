#!/usr/bin/env bash
# Measure a run or a bundle on every GPU of the job, with the settings of `hires evaluate`. From the project's folder:
#   sbatch launch/evaluate.sh run=runs/celebahq_1024 data=data/celebahq measure=swd,fidelity images=50000 metrics.weights=inception.pth
#   bash launch/evaluate.sh run=…                                             this machine's GPUs, no Slurm
#SBATCH --job-name=evaluate
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --output=logs/%x-%j.log

cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" && source slurm/job.sh || exit
once_on_every_gpu evaluate "$@"
