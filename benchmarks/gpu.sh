#!/usr/bin/env bash
# Everything worth knowing from a machine with one NVIDIA GPU and no package registry, in one command and a given time.
#
#     benchmarks/gpu.sh [seconds] [shards]        seconds: limit for the whole (default 540); shards: a folder that `hires prepare` made
#     TRAIN='experiment=pictures network=base schedule.resolution=64' benchmarks/gpu.sh 540 data/faces        what the training part runs
#
# Runs with the machine's own python3 and torch. What that lacks may lie as wheels in .whl/ (pip download --no-deps, for its Python);
# what is missing after that is named, and the parts that need it are passed over. Results: eight files at most in $OUT (default: runs/gpu).
set -u
LIMIT=${1:-540} DATA=${2:+$(realpath "$2")}
OUT=$(realpath -m "${OUT:-runs/gpu}")
cd "$(dirname "$0")/.." || exit 1
mkdir -p "$OUT"
rm -f "$OUT"/{summary,tests,step_*,profile,train}.txt
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 WANDB_MODE=disabled
PYTHON=${PYTHON:-python3}

left() { echo $((LIMIT - SECONDS)); }
say() { echo "[$SECONDS s] $*" | tee -a "$OUT/summary.txt"; }
# part NAME SECONDS COMMAND…: run it within its seconds and what is left; say how it ended; keep its output
part() {
  local name=$1 limit=$2
  shift 2
  [ "$limit" -gt "$(left)" ] && limit=$(left)
  if [ "$limit" -lt 15 ]; then
    say "$name: passed over, no time left"
    return
  fi
  say "$name: at most $limit s"
  timeout -k 15 "$limit" "$@" >> "$OUT/$name.txt" 2>&1
  local rc=$?
  case $rc in
    0) say "$name: done" ;;
    85) say "$name: stopped on request, saved" ;;
    124 | 137) say "$name: stopped at its limit; what it had found is in $name.txt" ;;
    *) say "$name: ended with status $rc" ;;
  esac
  grep -v -i warn "$OUT/$name.txt" | tail -n "${TAIL:-40}"
}

if compgen -G ".whl/*.whl" > /dev/null; then
  SITE=$(mktemp -d)
  if "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$SITE" .whl/*.whl; then
    export PYTHONPATH="$SITE${PYTHONPATH:+:$PYTHONPATH}"
    say "installed $(find .whl -name '*.whl' | wc -l) wheels"
  else
    say "the wheels in .whl do not install here: going on without them"
  fi
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
TORCH_EXTENSIONS_DIR=$(mktemp -d) && export TORCH_EXTENSIONS_DIR

missing=$("$PYTHON" - <<'PY'
import importlib.util
wanted = "torch torchvision deepspeed hydra omegaconf safetensors rich numpy PIL sklearn scipy".split()
print(" ".join(name for name in wanted if importlib.util.find_spec(name) is None))
PY
) || { say "no $PYTHON here: nothing was measured"; exit 0; }
[ -n "$missing" ] && say "missing here: $missing (carry them as wheels in .whl)"
case " $missing " in
  *" torch "* | *" deepspeed "* | *" hydra "* | *" omegaconf "*) say "nothing can be measured without them"; exit 0 ;;
esac

"$PYTHON" - <<'PY' | tee -a "$OUT/summary.txt"
from importlib.metadata import version
import platform
import torch
gpu = "NO GPU: all runs on the CPU"
if torch.cuda.is_available():
    gpu = f"{torch.cuda.get_device_name()}, {torch.cuda.mem_get_info()[1] / 2**30:.0f} GiB"
print(f"{gpu}; python {platform.python_version()}, torch {torch.__version__}, deepspeed {version('deepspeed')}, numpy {version('numpy')}")
PY
GPU=$("$PYTHON" -c 'import torch; print(int(torch.cuda.is_available()))' 2> /dev/null || echo 0)
if [ "$GPU" = 1 ]; then
  NETWORK=base PRECISION=bf16 PROFILED="64 1024"
else
  NETWORK=slim PRECISION=fp32 PROFILED=16
fi

# 1. does it compute the right thing here? (a GPU makes the players' device cuda by itself)
# Training first: its tests are those that a GPU changes. Several at a time where pytest-xdist is there: one at a time they outlast the limit.
if "$PYTHON" -c 'import pytest, pytest_timeout' 2> /dev/null; then
  WORKERS=()
  "$PYTHON" -c 'import xdist' 2> /dev/null && WORKERS=(-n $(($(nproc) < 8 ? $(nproc) : 8)) --dist loadfile --no-loadscope-reorder)
  TAIL=15 HIRES_TEST_GPUS=$GPU OMP_NUM_THREADS=1 part tests $((LIMIT / 5)) "$PYTHON" -m pytest -q -p no:cacheprovider -m "not slow" \
    --timeout=120 "${WORKERS[@]}" tests/training tests/networks tests/objectives
else
  say "tests: passed over, pytest or pytest-timeout is missing"
fi

# 2. the step table, with the share of peak arithmetic, as far up as its time bears; each row is printed when it is known
part step_"$NETWORK" $((LIMIT / 3)) "$PYTHON" benchmarks/step.py --network "$NETWORK" --precision "$PRECISION" --rounds 10 \
  --budget $((LIMIT / 3 - 20)) --write

# 3. where the time goes in the middle of the growth and at its end
for resolution in $PROFILED; do
  part profile $((LIMIT / 10)) "$PYTHON" benchmarks/step.py --network "$NETWORK" --precision "$PRECISION" \
    --resolutions "$resolution" --profile
done

# 4. as much real training as is left
if [ -z "$DATA" ]; then
  DATA=$(mktemp -d)/digits TRAIN=${TRAIN:-experiment=digits}
  part train 60 "$PYTHON" -m hires prepare source=digits out="$DATA"
fi
if [ -e "$DATA/manifest.json" ]; then
  RUN=$(mktemp -d)/run
  # stopped by SIGTERM the run saves and leaves with status 85; the last seconds are for that and for the copies
  # shellcheck disable=SC2086  # TRAIN holds several words
  TAIL=12 part train $(($(left) - 20)) "$PYTHON" -m hires train ${TRAIN:-experiment=pictures} data.root="$DATA" run="$RUN" \
    train.precision="$PRECISION"
  cp "$RUN/metrics.jsonl" "$OUT/metrics.jsonl" 2> /dev/null || say "train: no metrics came of it"
  # the newest grid of each kind, since $OUT may hold few files
  for kind in fakes reconstructions; do
    newest=$(find "$RUN/samples" -name "$kind-*.png" 2> /dev/null | sort | tail -n 1)
    [ -n "$newest" ] && cp "$newest" "$OUT/$kind.png"
  done
else
  say "train: passed over, no shards in '$DATA' (give a folder that hires prepare made)"
fi
say "results in $OUT"
exit 0
