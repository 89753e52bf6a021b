# shellcheck shell=bash disable=SC2034 # inside and image are for job.sh
# Where `python` comes from; job.sh sources this file.
#   HIRES_VENV      a virtual environment (default: .venv, where there is one)
#   HIRES_MODULES   environment modules to load first, such as "cuda/13.0 python/3.12"
#   HIRES_IMAGE     a container image instead: a .sif file runs with apptainer, any other name with pyxis (srun --container-image)
#   HIRES_MOUNTS    folders to mount in it beside the project's, such as /datasets:/datasets,/scratch:/scratch

inside=() # stands before `python`
image=()  # options of srun

missing() {
  echo "$1" >&2
  exit 2
}

if [[ -n ${HIRES_MODULES:-} ]]; then
  set +u # the modules' own scripts do not care for it
  for file in /etc/profile.d/lmod.sh /etc/profile.d/modules.sh; do
    # shellcheck disable=SC1090
    if ! type module >/dev/null 2>&1 && [[ -f $file ]]; then source "$file"; fi
  done
  type module >/dev/null 2>&1 || missing "HIRES_MODULES=$HIRES_MODULES: there is no command 'module' here; take HIRES_VENV or HIRES_IMAGE"
  # shellcheck disable=SC2086 # several modules, separated by spaces
  module load $HIRES_MODULES || missing "HIRES_MODULES=$HIRES_MODULES: 'module load' failed, see above; 'module avail' lists what there is"
  set -u
fi

if [[ ${HIRES_IMAGE:-} == *.sif ]]; then
  [[ -f $HIRES_IMAGE ]] || missing "HIRES_IMAGE=$HIRES_IMAGE: no such file"
  tool=$(command -v apptainer || command -v singularity) || missing "HIRES_IMAGE=$HIRES_IMAGE: wants apptainer, which is not installed here"
  inside=("$tool" exec --nv --bind "$PWD${HIRES_MOUNTS:+,$HIRES_MOUNTS}" --pwd "$PWD" "$HIRES_IMAGE")
elif [[ -n ${HIRES_IMAGE:-} ]]; then
  [[ -n ${SLURM_JOB_ID:-} ]] || missing "HIRES_IMAGE=$HIRES_IMAGE: wants a Slurm job; without Slurm take a .sif file (apptainer)"
  # no pipe: under pipefail, grep -q would end srun by SIGPIPE
  [[ $(srun --help 2>&1) == *--container-image* ]] ||
    missing "HIRES_IMAGE=$HIRES_IMAGE: this cluster's srun has no --container-image (pyxis); take a .sif file (apptainer)"
  image=(--container-image="$HIRES_IMAGE" --container-mounts="$PWD:$PWD${HIRES_MOUNTS:+,$HIRES_MOUNTS}" --container-workdir="$PWD")
elif [[ -f ${HIRES_VENV:-.venv}/bin/activate ]]; then
  # shellcheck disable=SC1091
  source "${HIRES_VENV:-.venv}/bin/activate"
elif [[ -n ${HIRES_VENV:-} ]]; then
  missing "HIRES_VENV=$HIRES_VENV: no virtual environment there; make environment makes .venv"
fi
if [[ -z ${HIRES_IMAGE:-} ]]; then
  command -v python >/dev/null || missing "no python here: make environment makes .venv; or set HIRES_VENV, HIRES_MODULES or HIRES_IMAGE"
fi

[[ -z ${SLURM_CPUS_PER_TASK:-} ]] || export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}
export PYTHONUNBUFFERED=1 # a line is in the log when it is said
