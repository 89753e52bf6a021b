#!/usr/bin/env bash
# What srun starts for each task: slurm/task.sh COMMAND…; rank 0 speaks into the job's log, the others into files of their own.
set -euo pipefail
trap '' USR1 USR2 # until hires listens they must not end it; the job's script repeats its warning
trap : TERM INT   # for hires, which they reach too
exec 3>&2
log=''
if ((SLURM_PROCID > 0)); then
  log=$HIRES_LOGS/rank-$SLURM_PROCID-restart-${SLURM_RESTART_COUNT:-0}.log
  exec >>"$log" 2>&1
fi
status=0
"$@" 3>&- || status=$?
if ((status == 85)); then # saved on request: no failure, but srun would take it for one and end the others
  [[ -n $log ]] || echo saved >"$HIRES_LOGS/saved"
  exit 0
fi
if [[ -n $log ]] && ((status)); then
  said=$(grep -i error "$log" | tail -n 1) || said=$(tail -n 1 "$log")
  echo "rank $SLURM_PROCID on ${SLURMD_NODENAME:-?} ended with status $status: $said (more in $log)" >&3
fi
exit "$status"
