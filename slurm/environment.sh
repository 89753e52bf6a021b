# shellcheck shell=bash
# What the launch scripts share; they source it from the project's folder.
#   HIRES_VENV      the virtual environment to use (default: .venv, where there is one)
#   HIRES_MODULES   environment modules to load first, such as "cuda/13.0 python/3.12"

if [[ -n ${HIRES_MODULES:-} ]]; then
  # shellcheck disable=SC2086 # several modules, separated by spaces
  module load $HIRES_MODULES
fi
if [[ -f ${HIRES_VENV:-.venv}/bin/activate ]]; then
  # shellcheck disable=SC1091
  source "${HIRES_VENV:-.venv}/bin/activate"
elif [[ -n ${HIRES_VENV:-} ]]; then
  echo "HIRES_VENV=$HIRES_VENV: no virtual environment there; make environment makes .venv" >&2
  exit 2
fi
[[ -z ${SLURM_CPUS_PER_TASK:-} ]] || export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK

# on_every_gpu ARGUMENTS…: python ARGUMENTS… once for each task of the job; without Slurm once for each GPU of this machine, at least once.
# A job that was warned of its end (USR1) is requeued once hires has saved; one that is cancelled (TERM) ends.
on_every_gpu() {
  if [[ -z ${SLURM_JOB_ID:-} ]]; then
    local gpus=0
    ! command -v nvidia-smi >/dev/null || gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU') || true
    if ((gpus > 1)); then torchrun --standalone --nproc-per-node="$gpus" "$@"; else python "$@"; fi
    return
  fi
  local mark status=0 step=''
  mark=$(mktemp) # rank 0 runs on this host, and writes here that it has saved
  trap '[[ -z $step ]] || kill -USR1 "$step" 2>/dev/null' USR1 # a warning that reaches this script alone: srun passes it on
  # srun does not inherit --cpus-per-task; one rank that fails must end the others
  srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" slurm/task.sh "$mark" python "$@" &
  step=$!
  wait "$step" || status=$?
  while kill -0 "$step" 2>/dev/null; do # the wait was interrupted by the signal
    status=0
    wait "$step" || status=$?
  done
  trap - USR1
  if [[ $status == 0 && -s $mark ]]; then
    echo "saved; job $SLURM_JOB_ID goes back into the queue"
    rm -f "$mark"
    scontrol requeue "$SLURM_JOB_ID" || return 85
    sleep 60 # Slurm ends this script when it requeues the job
    return 85
  fi
  rm -f "$mark"
  return "$status"
}
