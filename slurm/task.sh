#!/usr/bin/env bash
# What srun starts for each task: slurm/task.sh MARK COMMAND…
# srun ends the other tasks when one fails, and hires says "saved on request" by status 85: here that becomes 0, and rank 0 leaves a mark.
mark=$1
shift
command='' asked='' status=0
# shellcheck disable=SC2329 # called by the traps
hand_on() { # a signal may come before the command's number is known: then it is sent on as soon as it is
  asked=$1
  [[ -z $command ]] || kill -s "$asked" "$command" 2>/dev/null
}
trap 'hand_on USR1' USR1
trap 'hand_on TERM' TERM
"$@" &
command=$!
[[ -z $asked ]] || kill -s "$asked" "$command" 2>/dev/null
wait "$command" || status=$?
while kill -0 "$command" 2>/dev/null; do # the wait was interrupted by a signal
  status=0
  wait "$command" || status=$?
done
((status == 85)) || exit "$status"
((${SLURM_PROCID:-0} == 0)) && echo saved >"$mark"
exit 0
