#!/usr/bin/env bash
# What `make` runs to make .venv: launch/install.sh PYTHON EXTRA, EXTRA empty for what training needs, else an extra of pyproject.toml.
# Says every few seconds where it stands, and what to do where it cannot go on, in one line.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
python=$1 extra=${2:-} venv=.venv log=.venv/install.log
case $extra in "") megabytes=1700 ;; all) megabytes=2300 ;; *) megabytes=3000 ;; esac
free_in() { df -Pm "$1" | awk 'NR == 2 { print $4 }'; }
fail() { printf 'make: %s\n' "$1" >&2; exit 1; }

command -v "$python" >/dev/null || fail "$python not found: install Python 3.11 or later, or name one: make PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "$("$python" --version) is too old: wanted Python 3.11 or later; name one: make PYTHON=python3.12"
"$python" -c 'import venv, ensurepip' 2>/dev/null || fail "$python cannot make virtual environments: sudo apt-get install python3-venv"

mkdir -p $venv 2>/dev/null || fail "$PWD/$venv cannot be written: copy the project to a folder of your own"
held=$(du -sm $venv | cut -f1) free=$(free_in $venv)
((held + free >= megabytes)) || fail "$free MB free in $PWD/$venv, the environment takes $megabytes: make room, then run the same command again"

started=$SECONDS
tell() { # where it stands: a line that is written over on a terminal, one now and then in a file
  local what count all
  what=$(grep -E '^ *(Collecting|Downloading|Installing|Building|Preparing|Getting) ' $log 2>/dev/null | tail -n 1 | sed 's/^ *//')
  if [[ $what == "Installing collected packages:"* ]]; then
    count=$(find $venv/lib/python3*/site-packages -maxdepth 1 -name '*.dist-info' -newer $log.began | wc -l)
    all=$(tr , '\n' <<<"$what" | wc -l)
    what="installed $((count < all ? count : all)) of $all packages" # pip itself is counted too
  fi
  if [[ -t 1 ]]; then
    printf '\r\033[K%4d s  %.70s' $((SECONDS - started)) "$what"
  elif (((SECONDS - started) % 10 == 0)); then
    printf '%4d s  %.100s\n' $((SECONDS - started)) "$what"
  fi
}

echo "making $venv (up to $megabytes MB, a minute or two where the network is fast) …"
(
  "$python" -m venv $venv || exit
  # compiled when first imported: most of it never is
  exec $venv/bin/python -m pip install --disable-pip-version-check --no-input --no-compile --progress-bar off --prefer-binary \
    --retries 2 --constraint constraints.txt --editable ".${extra:+[$extra]}"
) >$log 2>&1 &
installing=$!
trap 'kill $installing 2>/dev/null; exit 130' INT TERM
touch $log.began
while kill -0 $installing 2>/dev/null; do
  tell
  sleep 1
done
wait $installing
status=$?
[[ -t 1 ]] && printf '\r\033[K'
if ((status == 0)); then
  echo "made $venv in $((SECONDS - started)) s: $(du -sm $venv | cut -f1) MB"
  exit
fi

said() { grep -qiE "$1" $log; }
free=$(free_in $venv)
if said 'No space left on device|Disk quota exceeded' || ((free < 10)); then # too full to say so, it may be
  fail "the disk is full ($free MB free in $PWD/$venv, $(free_in "${TMPDIR:-/tmp}") in ${TMPDIR:-/tmp}): make room, or name another folder for the latter: TMPDIR=/path make …"
elif said 'Read-only file system|Permission denied'; then
  fail "a folder cannot be written ($(grep -iE 'Read-only file system|Permission denied' $log | tail -n 1 | cut -c1-200)): $log has all of it"
elif said 'Failed to establish a new connection|Name or service not known|name resolution|Network is unreachable|ProxyError|timed out'; then
  fail "packages cannot be fetched: no network? Behind a proxy set https_proxy, for a mirror PIP_INDEX_URL; $log has pip's words"
elif said "command '[^']*(gcc|cc|c\+\+|g\+\+|clang)[^']*' failed|unable to execute|No such file or directory: '[^']*(gcc|cc|c\+\+)'|Python\.h"; then
  fail "a package must be compiled for $("$python" --version) and cannot be here: take Python 3.11 to 3.13, or sudo apt-get install build-essential python3-dev; $log has pip's words"
fi
fail "pip ended with status $status: $(grep -E '^ *(ERROR|error)' $log | tail -n 1 | cut -c1-300); $log has all of it"
