# shellcheck shell=bash
# A job from its start to its end: launch scripts source this in the project's folder and call one of its on_… functions.
#   HIRES_REQUEUES=10   a job that fails goes back into the queue at most so often, and only where it had saved something new
set -euo pipefail
step='' teller='' warnings=0 stop=USR1
trap 'warnings=$((warnings + 1))' USR1 # until there is a step to tell
source slurm/environment.sh

# srun does not take --cpus-per-task from sbatch; a task that is left over when the first has ended for 60 s hangs
each_task=(srun "${image[@]}" --wait=60 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}")
one_task=(srun "${image[@]}" --nodes=1 --ntasks=1 --cpus-per-task="${SLURM_CPUS_ON_NODE:-1}")
python=("${inside[@]}" python)
export HIRES_LOGS=logs/${SLURM_JOB_NAME:-}-${SLURM_JOB_ID:-} # the other ranks' logs, beside the job's

# on_every_gpu train SETTINGS…: hires on every task of the job; without Slurm on every GPU of this machine, or on its processor.
# Warned of its end (USR1), the job saves and is requeued. Failed, it is requeued where it got further. Cancelled (TERM), it ends.
on_every_gpu() {
  if [[ -n ${HIRES_CHAIN:-} ]]; then "${python[@]}" -m hires.slurm chain "$HIRES_CHAIN" "${@:2}"; return; fi # slurm/chain asks
  if [[ -z ${SLURM_JOB_ID:-} ]]; then without_slurm "$@"; return; fi
  local reason setting status=0
  for setting in "$@"; do
    [[ $setting != train.stop_signal=* ]] || stop=${setting#*=}
  done
  trap tell_step USR1
  mkdir -p "$HIRES_LOGS"
  rm -f "$HIRES_LOGS/saved"
  # the first word is the verb
  "${each_task[@]}" "${python[@]}" -m hires.slurm.preflight "${@:2}" || { end "not started, see above" 1; return; }
  ((warnings == 0)) || { requeue "warned before the start"; return; }
  run_step "${each_task[@]}" --kill-on-bad-exit=1 slurm/task.sh "${python[@]}" -m hires "$@" || status=$?
  if [[ -f $HIRES_LOGS/saved ]]; then
    requeue "saved"
  elif ((status == 0)); then
    echo "job $SLURM_JOB_ID: done"
  elif reason=$("${one_task[@]}" "${python[@]}" -m hires.slurm "$status" "${@:2}"); then
    requeue "$reason"
  else
    end "${reason:-failed with status $status}" "$status"
  fi
}

# on_one_node VERB SETTINGS…: hires once, with all of the job's cores. Warned, it is ended and the job requeued: it goes on where it was.
on_one_node() {
  if [[ -z ${SLURM_JOB_ID:-} ]]; then "${python[@]}" -m hires "$@"; return; fi
  local status=0
  stop=TERM
  trap tell_step USR1
  run_step "${one_task[@]}" "${python[@]}" -m hires "$@" || status=$?
  if ((status && warnings)); then requeue "out of time"; return; fi
  ((status == 0)) || end "failed with status $status" "$status"
}

# once_on_every_gpu VERB SETTINGS…: hires on every task of the job, once: no checks of a training before it, and nothing to go on from.
once_on_every_gpu() {
  if [[ -z ${SLURM_JOB_ID:-} ]]; then without_slurm "$@"; return; fi
  mkdir -p "$HIRES_LOGS"
  "${each_task[@]}" --kill-on-bad-exit=1 slurm/task.sh "${python[@]}" -m hires "$@"
}

without_slurm() {
  local gpus=0
  ! command -v nvidia-smi >/dev/null || gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU') || true
  if ((gpus > 1)); then
    "${inside[@]}" torchrun --standalone --nproc-per-node="$gpus" -m hires "$@"
  else
    "${python[@]}" -m hires "$@"
  fi
}

# run_step COMMAND…: its status; signals do not end the wait
run_step() {
  local before status
  (trap '' USR1 USR2 && exec "$@") & # srun takes them over
  step=$!
  ((warnings == 0)) || tell_step
  while :; do
    before=$warnings status=0
    wait "$step" || status=$?
    ((before != warnings)) || break
  done
  [[ -z $teller ]] || kill "$teller" 2>/dev/null || true
  return "$status"
}

# A warning came: the step hears of it every few seconds until it heeds, since it may not listen yet.
tell_step() {
  warnings=$((warnings + 1))
  [[ -n $step && -z $teller ]] || return 0
  (trap '' USR1 && while kill -s "${stop#SIG}" "$step" 2>/dev/null; do sleep 5; done) &
  teller=$!
}

requeue() {
  # scontrol wants 7_3 of an array, not the task's own number
  local job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
  echo "job $SLURM_JOB_ID: $1; back into the queue (restart $((${SLURM_RESTART_COUNT:-0} + 1)))"
  scontrol requeue "${job:-$SLURM_JOB_ID}" || { end "could not be requeued; submit it again, it goes on from there" 85; return; }
  sleep 60 # Slurm ends this script
  return 85
}

end() {
  echo "job $SLURM_JOB_ID: $1; not requeued" >&2
  return "$2"
}
