#!/usr/bin/env bash
# A clip of a bundle (hires export makes one), or of a run as it grew, with the settings of `hires video`. From the project's folder:
#   sbatch launch/video.sh sampler=bundle out=walk.mp4 seeds=1,5,9
#   sbatch launch/video.sh growth run=runs/celebahq_1024 out=growth.mp4
#   bash launch/video.sh sampler=bundle out=walk.mp4                          this machine, no Slurm
#SBATCH --job-name=video
#SBATCH --nodes=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=01:00:00
#SBATCH --output=logs/%x-%j.log

cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" && source slurm/job.sh || exit
on_one_node video "$@"
