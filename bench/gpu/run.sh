#!/usr/bin/env bash
# Everything that only a machine with an NVIDIA GPU can prove, in one command: the whole test suite on the CUDA device, a small
# case under compute-sanitizer, and the benchmarks beside PyTorch. It goes on after a step that fails, and sums up at the end.
#
#   bench/gpu/run.sh [--only machine|tests|sanitizer|bench]... [folder]
#
# folder: for logs and results; else $OUT, else bench/results/<date>-<gpu>-<commit>. The machine needs no npm, compiler or network:
# what is built (build, build-cuda, build-test) comes along, and Node and modules from .gpu/unpack.sh if that is there.
#   QUICK=1       fewer rounds and a limit for each step, so that all of it fits into ten minutes
#   LIMIT         seconds for everything; 570 when quick, else 7200
#   TINY=1        the smallest shapes, to try the script itself, with SONDE_CUDA_LIBRARY naming the emulator's library
#   TESTS         words: only test files whose path contains one (see test/run.mjs)
#   CASES         words, separated by commas: only benchmarks whose name contains one
#   PYTHON        the Python that holds PyTorch; python3
#   SONDE_COMMIT  the commit, where .git did not come along
# Exit code: 0 when all steps that could run are well, 1 when one failed or a benchmark missed its target.
set -uo pipefail
cd "$(dirname "$0")/../.."

steps=()
folder=${OUT:-}
while [ $# -gt 0 ]; do
  case $1 in
    --only)
      case ${2:-} in
        machine | tests | sanitizer | bench) steps+=("$2") ;;
        *) echo "run.sh: --only takes machine, tests, sanitizer or bench, not '${2:-}'" >&2; exit 2 ;;
      esac
      shift 2 ;;
    -*) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
    *) folder=$1; shift ;;
  esac
done
[ ${#steps[@]} -gt 0 ] || steps=(machine tests sanitizer bench)
wanted() { [[ " ${steps[*]} " == *" $1 "* ]]; }

quick=${QUICK:+1} tiny=${TINY:+1}
limit=${LIMIT:-$([ "$quick" ] && echo 570 || echo 7200)}
export SONDE_DEVICE=cuda PYTHON="${PYTHON:-python3}" PYTHONUNBUFFERED=1

# ---- where, what

has() { command -v "$1" >/dev/null 2>&1; }
if [ -f .gpu/unpack.sh ] && ! { has node && [ -d node_modules ]; }; then
  . .gpu/unpack.sh || true
fi
has node || { echo 'run.sh: there is no node here, and no .gpu/unpack.sh that brings it' >&2; exit 2; }
if [ ! -f build-test/bench/gpu/small.js ]; then
  echo 'run.sh: build-test is missing: npm run build:test, where npm is' >&2
  exit 2
fi

for place in "${CUDA_HOME:-}/bin" "${CUDA_PATH:-}/bin" /usr/local/cuda*/bin /usr/local/cuda*/compute-sanitizer; do
  if [ -d "$place" ]; then PATH=$PATH:$place; fi
done
gpu=$(has nvidia-smi && nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)
commit=${SONDE_COMMIT:-$(git rev-parse --short HEAD 2>/dev/null || echo unknown)}
if [ -z "${SONDE_COMMIT:-}" ] && [ -n "$(git status --porcelain 2>/dev/null)" ]; then commit+=-dirty; fi
date=$(date -u +%Y-%m-%d)
slug=$(echo "${gpu:-no GPU}" | tr '[:upper:]' '[:lower:]' | tr -cs 'a-z0-9' '-' | sed 's/^-//; s/-$//')
[ -n "$folder" ] || folder=bench/results/$date-$slug-$commit
mkdir -p "$folder" || exit 2

# ---- steps

failed=0
skipped=0
tell() { echo "$*" | tee -a "$folder/summary.txt"; }
left() { echo $((limit - SECONDS)); }

skip() {
  skipped=$((skipped + 1))
  tell "skipped  $*"
}

# step <name> <log> <seconds> <command...>: runs it into the log, tells what became of it and the log's last line; its exit code
# stays in $code
step() {
  local name=$1 log=$folder/$2 seconds=$3 start=$SECONDS from
  shift 3
  code=125
  if [ "$(left)" -lt 2 ]; then
    failed=1
    tell "FAILED   $name: no time left of $limit s (LIMIT)"
    return
  fi
  [ "$seconds" -le "$(left)" ] || seconds=$(left)
  touch "$log"
  from=$(($(wc -c <"$log") + 1))
  echo "== $name: $*" >>"$log"
  timeout -k 10 "$seconds" "$@" >>"$log" 2>&1
  code=$?
  local took=$((SECONDS - start)) last
  last=$(tail -n 1 "$log" | cut -c 1-160)
  if [ $code -eq 0 ] && [ "$1" = compute-sanitizer ] && ! tail -c "+$from" "$log" | grep -q 'SUMMARY: 0 '; then
    failed=1
    tell "FAILED   $name, $took s: compute-sanitizer gave no verdict ($log)"
  elif [ $code -eq 0 ]; then
    tell "ok       $name, $took s: $last"
  elif tail -c "+$from" "$log" | grep -q 'Device not supported'; then
    skip "$name: compute-sanitizer does not support this machine ($log)"
  elif [ $code -eq 124 ] || [ $code -eq 137 ]; then
    failed=1
    tell "FAILED   $name: ran past $seconds s ($log)"
  elif [ $code -eq 3 ] && [ "$name" = bench ]; then
    failed=1
    tell "MISSED   $name, $took s: $last"
  else
    failed=1
    tell "FAILED   $name, $took s, exit code $code: $last ($log)"
    tail -c "+$from" "$log" | grep '^FAIL' | head -n 20 | sed 's/^/           /' | tee -a "$folder/summary.txt"
  fi
}
within() { [ "$quick" ] && echo "$1" || echo "$2"; }

machine() {
  date -u
  echo "commit $commit"
  uname -srm
  if has lscpu; then lscpu | grep -E '^(Model name|CPU\(s\)|Thread)' ; fi
  echo "node $(node --version)"
  "$PYTHON" -c 'import torch; print("PyTorch", torch.__version__, "CUDA", torch.version.cuda)' 2>&1 | tail -n 1
  if has nvcc; then nvcc --version | tail -n 2; else echo 'nvcc: not installed'; fi
  ls -l build/Release/sonde.node build-cuda/Release/libsonde_cuda.so "${SONDE_CUDA_LIBRARY:-.}" 2>&1
  node build-test/src/cli/main.js devices 2>&1 || true
  has nvidia-smi || return
  nvidia-smi
  # clocks and power as they are: they are never changed here
  nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu,ecc.mode.current \
    --format=csv
}
export -f machine has
export commit PATH

tell "$date, ${gpu:-no NVIDIA GPU}, commit $commit${quick:+, quick}${tiny:+, tiny shapes}"
for name in "${steps[@]}"; do rm -f "$folder/$name.log"; done
if wanted machine; then
  if has nvidia-smi; then
    step machine machine.log 60 bash -c machine
  else
    bash -c machine >"$folder/machine.log" 2>&1
    skip 'machine: nvidia-smi is not installed'
  fi
fi

if wanted tests; then
  # shellcheck disable=SC2086 # words
  step tests tests.log "$(within 220 3600)" node test/run.mjs ${TESTS:-}
fi

small=(node --enable-source-maps build-test/bench/gpu/small.js)
sanitize() {
  local tool=$1 options=(--error-exitcode 86 --print-limit 20)
  if ! has compute-sanitizer; then
    skip "$tool: compute-sanitizer is not installed"
    return
  fi
  if [ "$tool" = memcheck ] && compute-sanitizer --help 2>/dev/null | grep -q track-stream-ordered-races; then
    options+=(--track-stream-ordered-races all)
  fi
  step "$tool" sanitizer.log "$(within "$2" 1800)" compute-sanitizer --tool "$tool" "${options[@]}" "${small[@]}"
}
if wanted sanitizer; then
  step 'small case' sanitizer.log "$(within 120 600)" "${small[@]}"
  step 'small case, memory poisoned' sanitizer.log "$(within 120 600)" env SONDE_POISON=1 "${small[@]}"
  sanitize memcheck 120
  sanitize racecheck 120
fi

if wanted bench; then
  only=()
  IFS=, read -ra words <<<"${CASES:-}"
  for word in ${words[@]+"${words[@]}"}; do only+=(--only "$word"); done
  rounds=$([ "$tiny" ] && echo 2 || within 5 15)
  seconds=$(within 240 3600)
  [ "$seconds" -le "$(left)" ] || seconds=$(left)
  driver=$(has nvidia-smi && nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)
  step bench bench.log "$seconds" node --enable-source-maps build-test/bench/compare/compare.js --on gpu --out "$folder" \
    --rounds "$rounds" ${tiny:+--scale tiny} --limit $((seconds - 20)) ${only[@]+"${only[@]}"} \
    --note "$date, commit $commit" --note "${gpu:-no NVIDIA GPU}, driver ${driver:-none}"
fi

# the last ones: what is left of the time
if wanted sanitizer; then
  for tool in synccheck initcheck; do
    if [ "$quick" ] && [ "$(left)" -lt 45 ]; then
      skip "$tool: no time left of $limit s (LIMIT)"
    else
      sanitize $tool 90
    fi
  done
fi

tell "$([ $failed -eq 0 ] && echo 'all well' || echo 'NOT all well'), $skipped skipped, $SECONDS s; $folder"
exit $failed
