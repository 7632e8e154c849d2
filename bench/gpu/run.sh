#!/usr/bin/env bash
# Everything that only a machine with an NVIDIA GPU can prove, in steps, each with a limit of its own: one that hangs costs its
# limit and not the steps after it. What a step prints is on the disk as it goes, and summary.txt gets a line for each.
#
#   bench/gpu/run.sh [--only STEP]... [folder]
#
#   step         quick   what it does
#   machine       20 s   the GPU, its driver and clocks, the processor, versions
#   small         60 s   small.ts: every operation against the CPU, on odd shapes; without QUICK again, memory poisoned
#   full-size     40 s   full_size.ts: the hot kernels at GPT-2's sizes against strict arithmetic and double precision
#   bench        150 s   benchmarks beside PyTorch
#   tests        110 s   the test suite on the CUDA device
#   sanitizer     60 s   small.ts under compute-sanitizer: memcheck of a few cases; without QUICK all of its tools and cases
#   profile       60 s   the hot kernels under ncu
#
# folder: for logs and results; else $OUT, else bench/results/<date>-<gpu>-<commit>. The machine needs no npm, compiler or network:
# what is built (build, build-cuda, build-test) comes along. Where it has no Node either, .gpu/unpack.sh is sourced: a script of
# whoever packs for such a machine, which puts node on the PATH, and node_modules and what is built where they belong.
#   QUICK=1       the limits above, few rounds, and what matters most of each step. The first four steps are meant to be one call
#                 and the last three another: each ends within 265 s, and leaves at most eight files
#   LIMIT         seconds for everything; 265 when quick (520 for all steps), else 7200
#   TINY=1        the smallest shapes, to try the script itself, with SONDE_CUDA_LIBRARY naming the emulator's library
#   TESTS         words: only test files whose path contains one (see test/run.mjs)
#   CASES         words, separated by commas: only benchmarks whose name contains one
#   PYTHON        the Python that holds PyTorch; python3
#   SONDE_COMMIT  the commit, where .git did not come along
# Exit code: 0 when all steps that could run are well, 1 when one failed or a benchmark missed its target.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2

all_steps=(machine small full-size bench tests sanitizer profile)
steps=()
folder=${OUT:-}
while [ $# -gt 0 ]; do
  case $1 in
    --only)
      if [[ -z ${2:-} || " ${all_steps[*]} " != *" $2 "* ]]; then
        echo "run.sh: --only takes one of ${all_steps[*]}, not '${2:-}'" >&2
        exit 2
      fi
      steps+=("$2")
      shift 2 ;;
    -*) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
    *) folder=$1; shift ;;
  esac
done
[ ${#steps[@]} -gt 0 ] || steps=("${all_steps[@]}")
wanted() { [[ " ${steps[*]} " == *" $1 "* ]]; }

quick=${QUICK:+1} tiny=${TINY:+1}
limit=7200
if [ "$quick" ]; then limit=$((${#steps[@]} < ${#all_steps[@]} ? 265 : 520)); fi
limit=${LIMIT:-$limit}
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

for directory in "${CUDA_HOME:-}/bin" "${CUDA_PATH:-}/bin" /usr/local/cuda*/bin /usr/local/cuda*/compute-sanitizer \
  /opt/nvidia/nsight-compute/*; do
  if [ -d "$directory" ]; then PATH=$PATH:$directory; fi
done
gpu='' driver=none
if has nvidia-smi; then
  IFS=, read -r gpu driver < <(timeout -k 1 9 nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null)
fi
commit=${SONDE_COMMIT:-$(git rev-parse --short HEAD 2>/dev/null || echo unknown)}
if [ -z "${SONDE_COMMIT:-}" ] && [ -n "$(git status --porcelain 2>/dev/null)" ]; then commit+=-dirty; fi
date=$(date -u +%Y-%m-%d)
slug=$(echo "${gpu:-no GPU}" | tr '[:upper:]' '[:lower:]' | tr -cs 'a-z0-9' '-' | sed 's/^-//; s/-$//')
[ -n "$folder" ] || folder=bench/results/$date-$slug-$commit
mkdir -p "$folder" || exit 2

# ---- steps

failed=0
skipped=0
running=
trap 'if [ "$running" ]; then kill -TERM "$running"; fi; exit 1' INT TERM
report() { echo "$*" | tee -a "$folder/summary.txt"; }
left() { echo $((limit - SECONDS)); }

skip() {
  skipped=$((skipped + 1))
  report "skipped  $*"
}

# quick_or_full <quick> <full>: the value for this call
quick_or_full() { [ "$quick" ] && echo "$1" || echo "$2"; }

# The seconds of a step: its own, or what is left of all.
seconds_of() {
  local seconds
  case $1 in
    machine) seconds=$(quick_or_full 20 60) ;;
    small) seconds=$(quick_or_full 60 600) ;;
    full-size) seconds=$(quick_or_full 40 600) ;;
    bench) seconds=$(quick_or_full 150 3600) ;;
    tests) seconds=$(quick_or_full 110 3600) ;;
    sanitizer) seconds=$(quick_or_full 60 1800) ;; # each of its tools
    profile) seconds=$(quick_or_full 60 600) ;;
  esac
  [ "$seconds" -le "$(left)" ] || seconds=$(left)
  echo "$seconds"
}

# step <step> <title> <command...>: runs it into the step's log, reports its outcome and the log's last line
step() {
  local name=$1 log=$folder/$1.log title=$2 start=$SECONDS seconds from code
  seconds=$(seconds_of "$1")
  shift 2
  if [ "$seconds" -lt 4 ]; then
    failed=1
    report "FAILED   $title: no time left of $limit s (LIMIT)"
    return
  fi
  touch "$log"
  from=$(($(wc -c <"$log") + 1))
  echo "== $title: $*" >>"$log"
  # the last three seconds are for stopping: test/run.mjs ends the processes that it started
  timeout -k 3 $((seconds - 3)) "$@" >>"$log" 2>&1 &
  running=$!
  wait "$running" 2>/dev/null
  code=$?
  kill -KILL -- "-$running" 2>/dev/null # what is left of its process group
  running=
  local took=$((SECONDS - start)) last
  last=$(printed | tail -n 1 | cut -c 1-160)
  if [ "$name" = sanitizer ] && [ $code -eq 0 ] && ! printed | grep 'SUMMARY: 0 ' >/dev/null; then
    failed=1
    report "FAILED   $title, $took s: compute-sanitizer gave no verdict ($log)"
  elif [ "$name" = profile ] && [ $code -eq 0 ]; then
    profiled "$title" "$took" "$(printed | grep -c '^==PROF== Profiling')"
  elif [ $code -eq 0 ]; then
    report "ok       $title, $took s: $last"
  elif [ "$name" = sanitizer ] && printed | grep 'Device not supported' >/dev/null; then
    skip "$title: compute-sanitizer does not support this machine ($log)"
  elif [ "$name" = profile ] && printed | grep -E 'ERR_NVGPUCTRPERM|Failed to initialize the profiler' >/dev/null; then
    skip "$title: ncu may not read the counters of this GPU ($log)"
  elif [ $code -eq 124 ] || [ $code -eq 137 ]; then
    failed=1
    report "FAILED   $title: ran past $seconds s ($log)"
    blame
  elif [ $code -eq 3 ] && [ "$name" = bench ]; then
    failed=1
    report "MISSED   $title, $took s: $last"
  else
    failed=1
    report "FAILED   $title, $took s, exit code $code: $last ($log)"
    blame
  fi
}
printed() { tail -c "+$from" "$log"; } # of the step under way
blame() { printed | grep '^FAIL' | head -n 20 | sed 's/^/           /' | tee -a "$folder/summary.txt"; }

profiled() {
  if [ "$3" -gt 0 ]; then
    report "ok       $1, $2 s: $3 kernels"
  else
    failed=1
    report "FAILED   $1, $2 s: ncu saw no kernel ($folder/profile.log)"
  fi
}

machine() {
  date -u
  echo "commit $commit"
  uname -srm
  if has lscpu; then lscpu | grep -E '^(Model name|CPU\(s\)|Thread)' ; fi
  echo "node $(node --version)"
  # its import may take longer than this step
  "$PYTHON" -c 'from importlib.metadata import version; print("PyTorch", version("torch"))' 2>&1 | tail -n 1
  if has nvcc; then nvcc --version | tail -n 2; else echo 'nvcc: not installed'; fi
  ls -l build/Release/sonde.node build-cuda/Release/libsonde_cuda.so ${SONDE_CUDA_LIBRARY:+"$SONDE_CUDA_LIBRARY"} 2>&1
  node build-test/src/cli/main.js devices 2>&1 || true
  if ! has nvidia-smi; then
    echo 'nvidia-smi: not installed'
    return
  fi
  nvidia-smi
  # clocks and power as they are: they are never changed here
  nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu,ecc.mode.current \
    --format=csv
}
export -f machine has
export commit PATH

report "$date, ${gpu:-no NVIDIA GPU}, commit $commit${quick:+, quick}${tiny:+, tiny shapes}"
for name in "${steps[@]}"; do rm -f "$folder/$name.log"; done
# PyTorch and its libraries take long to be read from a cold disk, so they are read while the first step goes on
warm='import torch
for dtype in torch.bfloat16, torch.float32:
  x = torch.ones(1, 2, 64, 64, device="cuda", dtype=dtype)
  torch.mm(x[0, 0], x[0, 1])
  torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)
torch.cuda.synchronize()'
if wanted bench && wanted small; then
  timeout -k 1 60 "$PYTHON" -c "$warm" >/dev/null 2>&1 &
fi
if wanted machine; then step machine machine bash -c machine; fi

small=(node --enable-source-maps build-test/bench/gpu/small.js)
full_size=(node --enable-source-maps build-test/bench/gpu/full_size.js)
if wanted small; then
  step small small "${small[@]}"
  if [ ! "$quick" ]; then step small 'small, memory poisoned' env SONDE_POISON=1 "${small[@]}"; fi
fi
if wanted full-size; then step full-size full-size "${full_size[@]}"; fi

if wanted bench; then
  only=()
  IFS=, read -ra words <<<"${CASES-$(quick_or_full 'linear bf16,linear f32,attention,sparseEncode' '')}"
  for word in ${words[@]+"${words[@]}"}; do only+=(--only "$word"); done
  rounds=$([ "$tiny" ] && echo 2 || quick_or_full 5 15)
  seconds=$(seconds_of bench)
  # no case begins in the last seconds: one may take as long as an answer is waited for
  last_start=$((seconds > 50 ? seconds - 28 : seconds / 2))
  step bench bench node --enable-source-maps build-test/bench/compare/compare.js --on gpu --out "$folder" \
    --rounds "$rounds" --limit "$last_start" ${quick:+--patience 20} ${tiny:+--scale tiny} ${only[@]+"${only[@]}"} \
    --note "$date, commit $commit" --note "${gpu:-no NVIDIA GPU}, driver ${driver# }"
fi

if wanted tests; then
  # the folders whose tests use a device
  files=${TESTS:-engine/ transformer/ autoencoder/ $(quick_or_full context/model 'context/ dump/ cli/')}
  if [ "$quick" ] && [ -z "$tiny" ]; then export TEST_FILE_LIMIT="${TEST_FILE_LIMIT:-90}"; fi
  # shellcheck disable=SC2086 # words
  step tests tests node test/run.mjs $files
fi

# sanitized <tool> <command...>
sanitized() {
  local options=(--tool "$1" --error-exitcode 86 --print-limit 20)
  if [ "$1" = memcheck ] && [ ! "${QUICK:-}" ] && compute-sanitizer --help 2>/dev/null | grep -q track-stream-ordered-races; then
    options+=(--track-stream-ordered-races all)
  fi
  shift
  exec compute-sanitizer "${options[@]}" "$@"
}
export -f sanitized
sanitize() {
  if has compute-sanitizer; then
    # shellcheck disable=SC2016 # the inner shell's arguments
    step sanitizer "$1" bash -c 'sanitized "$@"' bash "$1" "${small[@]}" "${@:2}"
  else
    skip "$1: compute-sanitizer is not installed"
  fi
}
if wanted sanitizer; then
  if [ "$quick" ]; then
    # each hot kernel, and products of more tiles than blocks
    sanitize memcheck \
      'linear float32 x float32, float32 [129' 'linear bfloat16 x bfloat16, float32 [129' \
      'attention float32 [2, 129' 'attention bfloat16 [2, 129' \
      'sparseEncode float32, float32 [131' 'sparseEncode bfloat16, float32 [131'
  else
    for tool in memcheck racecheck synccheck initcheck; do sanitize $tool; done
  fi
fi

# ncu prints only when its program ends. With a run for each word, one that hangs or is stopped costs its own tables alone. Clocks
# stay as they are.
profile_each() {
  local word failure=0
  for word in 'linear bfloat16' 'linear float32' attention 'sparseEncode bfloat16' 'sparseEncode float32'; do
    timeout --foreground -k 1 20 ncu --clock-control none --set full -k 'regex:hopper|attention|choose' --launch-count 4 "$@" profile "$word" ||
      failure=$?
  done
  return $failure
}
export -f profile_each
if wanted profile; then
  if has ncu; then
    # shellcheck disable=SC2016 # the inner shell's arguments
    step profile profile bash -c 'profile_each "$@"' bash "${full_size[@]}"
  else
    skip 'profile: ncu is not installed'
  fi
fi

report "$([ $failed -eq 0 ] && echo 'all well' || echo 'NOT all well'), $skipped skipped, $SECONDS s; $folder"
exit $failed
