#!/usr/bin/env bash
# Everything this project does on a machine with a GPU, in one command and at most 9 minutes: build for this chip, CUDA tests,
# CPU against CUDA, graph capture and replay, the bench matrix, compute-sanitizer, a short table. Needs a Python with torch,
# nvcc, cmake and ninja; no network, and nothing is installed: the package is built into bench/out/site.
#
#   bench/gpu.sh                     all stages          bench/gpu.sh build bench     only these
#   bench/gpu.sh --dry-run           print the plan      bench/gpu.sh --seconds 300   less time for everything
#   bench/gpu.sh --rehearse          the same stages on the CPU, on tiny cases: tests this script, its numbers mean nothing
#
# Logs and rows go to $OUT, or to bench/out and bench/results/<gpu>.jsonl. PYTHON, CUDA_HOME and MAX_JOBS are honoured.
# A failed stage does not end the others. Exit status: 1 if a correctness stage failed, 2 for bad arguments.
set -uo pipefail

# Stage, most seconds it may take, seconds kept for it by the stages before it. The bench takes all that is left.
plan="info 20 5
build 170 45
tests 130 30
agreement 40 12
graphs 40 12
bench 9999 120
sanitize 70 45
table 12 8"
grace=3 # seconds between the end of a stage's time and its being killed; inside its time

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 2
self=$root/bench/$(basename "${BASH_SOURCE[0]}")

# ---- the stages: each runs in a process of its own, with its limit in $limit ------------------------------------------

# A line for the terminal. Everything else a stage prints stays in its log.
say() { printf '%s\n' "$*" >&3; }

probe() { # whether this Python has a module (or "headers"); "device" prints the GPU's architecture and name
  "$python" - "$1" 2>/dev/null <<'PY'
import importlib.util
import sys

what = sys.argv[1]
if what == "device":
    import torch

    if not torch.cuda.is_available():
        sys.exit(1)
    major, minor = torch.cuda.get_device_capability()
    print(f"{major}.{minor} {torch.cuda.get_device_name()}")
elif what == "headers":
    import sysconfig
    from pathlib import Path

    sys.exit(not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file())
else:
    sys.exit(importlib.util.find_spec(what) is None)
PY
}

stage_info() {
  local missing=""
  "$python" -c 'import sys, torch; print(sys.version); print("torch", torch.__version__, "CUDA", torch.version.cuda)' || return 1
  nvidia-smi 2>&1 || echo "no nvidia-smi"
  "${CUDA_HOME:-/none}/bin/nvcc" --version 2>&1 || echo "no nvcc"
  for module in setuptools pybind11 pytest hypothesis scipy rich xdist cupy triton flashinfer; do
    if probe $module; then echo "has $module"; else missing+=" $module"; fi
  done
  for command in g++ cmake ninja ptxas compute-sanitizer; do
    command -v $command || [ -x "${CUDA_HOME:-/none}/bin/$command" ] || [ -x "$(dirname "$python")/$command" ] || missing+=" $command"
  done
  probe headers || missing+=" Python.h"
  say "  ${gpu:-no GPU} ${arch:+(sm_${arch/./})}; CUDA_HOME=${CUDA_HOME:-none}; missing:${missing:- nothing}"
  [ "$mode" = rehearsal ] || [ -n "$arch" ]
}

stage_build() {
  local backend=cuda arguments=${CMAKE_ARGS:-} warm="" status
  cd "$root" || return 1
  [ "$mode" = cuda ] || backend=cpu
  probe pybind11 || arguments+=" -DDLM_BUILD_PYBIND=OFF"
  "$python" setup.py -q build_py --build-lib "$site" || return 1
  if [ "$mode" = cuda ]; then
    # The compiled peers fill their caches while the GPU is idle, so that the bench has more time for timing.
    (cd "$work" && DLM_KERNELS_BACKEND=reference DLM_KERNELS_STRICT=0 exec nice "$python" -m dlm_kernels.bench.gpu_worker \
      "{\"device\": \"cuda\", \"filter\": null, \"against\": null, \"seconds\": $limit, \"warm\": true}") &
    warm=$!
  fi
  DLM_KERNELS_BUILD=$backend TORCH_CUDA_ARCH_LIST=$arch CMAKE_ARGS=$arguments \
    "$python" setup.py -q build_ext --build-lib "$site" --build-temp "$work/build"
  status=$?
  [ -z "$warm" ] || { kill "$warm" 2>/dev/null; wait "$warm" 2>/dev/null; }
  [ $status = 0 ] || return 1
  cd "$work" || return 1
  "$python" - "$backend" "$site" <<'PY' || return 1
import sys

import dlm_kernels
from dlm_kernels import _load

print(dlm_kernels.__file__, _load.build_info())
assert dlm_kernels.__file__.startswith(sys.argv[2]), "another dlm_kernels is in the way"
assert sys.argv[1] in _load.build_info()["backends"], "built without the wanted backend"
assert _load.load().error is None, _load.load().error
PY
  "$python" -m dlm_kernels info
}

stage_tests() {
  local chosen="cuda and not instructions_per_logit" workers=() without=() cores status # counting instructions takes no GPU
  probe pytest && probe hypothesis || { say "  pytest or hypothesis is missing; the next two stages need neither"; return 77; }
  if [ "$mode" = cuda ]; then export DLM_KERNELS_TEST_BACKENDS=cuda; else chosen=test_seeds; fi
  probe diffusers || without+=(--ignore-glob "*/test_diffusers*.py")
  # Without CuPy all of it is emulated, and compiling the emulation takes longer than everything else here.
  probe cupy || without+=(--ignore-glob "*/test_array_cuda.py")
  # In parallel, and a process that a CUDA error has spoiled takes only its own tests with it.
  cores=$(nproc)
  probe xdist && workers=(-n $((cores < 12 ? cores : 12)))
  cd "$root" || return 1
  # The tests of fallbacks set this themselves.
  # Each by its name: what has failed is then known also where the time ends first.
  env -u DLM_KERNELS_STRICT "$python" -m pytest tests -vv -k "$chosen" -rs -p no:cacheprovider --maxfail=25 \
    --continue-on-collection-errors "${workers[@]}" "${without[@]}"
  status=$?
  [ $status != 5 ] || say "  no test is called $chosen: does pytest see the GPU?"
  say "  $(grep -E '[0-9]+ (passed|failed|error)' "$out/tests.log" | tail -n 1)"
  return $status
}

stage_agreement() {
  local device=cuda
  [ "$mode" = cuda ] || device=cpu
  "$python" -m dlm_kernels.bench.gpu_agreement --device $device --seconds $((limit - 10)) | tee "$work/agreement.txt"
  local status=${PIPESTATUS[0]}
  say "  $(tail -n 1 "$work/agreement.txt")"
  return "$status"
}

stage_graphs() {
  "$python" -m dlm_kernels.bench.gpu_graphs --device "$mode" --seconds $((limit - 10)) | tee "$work/graphs.txt"
  local status=${PIPESTATUS[0]}
  say "  $(tail -n 1 "$work/graphs.txt")"
  return "$status"
}

stage_bench() {
  local peers=()
  [ "$mode" = cuda ] || peers=(--against llada,dream,torch_fp32,triton_one_pass,flashinfer)
  # Its processes end by themselves well before they would be killed. 4: everything is right, a bar of speed is not reached.
  "$python" -m dlm_kernels.bench.gpu --device "$mode" --seconds $((limit - 25)) --out "$rows" "${peers[@]}"
}

stage_sanitize() {
  local tool=${CUDA_HOME:-/none}/bin/compute-sanitizer names="memcheck racecheck initcheck synccheck" name log status=0
  [ "$mode" = cuda ] || { "$python" -m dlm_kernels.bench.gpu_sanitize --device cpu; return; }
  [ -x "$tool" ] || tool=${CUDA_HOME:-/none}/compute-sanitizer/compute-sanitizer
  [ -x "$tool" ] || tool=$(command -v compute-sanitizer) || { say "  no compute-sanitizer"; return 77; }
  # Without torch's caching allocator a read past a tensor is a read past an allocation.
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  for name in $names; do
    (
      log=$work/sanitize-$name.txt
      run=("$python" -m dlm_kernels.bench.gpu_sanitize --seconds $((limit / 3)))
      # No kernel is left out: memory that an unwatched one wrote would pass for unwritten.
      timeout -k 2 $((limit - 8)) "$tool" --tool "$name" --error-exitcode 9 "${run[@]}" >"$log" 2>&1
      echo "exit $?" >>"$log"
    ) &
  done
  wait
  for name in $names; do
    log=$work/sanitize-$name.txt
    echo "==== $name"
    head -c 200000 "$log"
    if grep -q "Device not supported" "$log"; then
      say "  $name: cannot watch this device"
      [ $status != 0 ] || status=77
    elif grep -qE '^exit (124|137)$' "$log" && ! grep -qE '[1-9][0-9]* error' "$log"; then
      say "  $name: out of time, nothing found until then"
      [ $status != 0 ] || status=77
    elif [ "$(tail -n 1 "$log")" = "exit 0" ] && grep -q '^ran [1-9]' "$log"; then
      say "  $name: $(grep -oE '(ERROR|RACECHECK) SUMMARY.*' "$log" | tail -n 1), $(grep -oE '^ran [0-9]+ of [0-9]+' "$log" | tail -n 1)"
    else
      say "  $name: FAILED ($(tail -n 1 "$log")): $(grep -E 'SUMMARY|Error:|Invalid|hazard|Uninit' "$log" | head -n 3 | tr '\n' ';')"
      status=1
    fi
  done
  return $status
}

stage_table() {
  [ -s "$rows" ] || { say "  no rows"; return 77; }
  "$python" -m dlm_kernels.bench.gpu --report "$rows" >"$work/table.txt"
  local status=$?
  cat "$work/table.txt"
  say "$(cat "$work/table.txt")"
  [ $status = 0 ] || [ $status = 4 ]
}

if [ -n "${GPU_SH_STAGE:-}" ]; then
  cd "$work" || exit 1
  "stage_$GPU_SH_STAGE"
  exit
fi

# ---- the driver ----------------------------------------------------------------------------------------------------------

total=540 dry="" mode=cuda chosen=""
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry=1 ;;
    --rehearse) mode=rehearsal ;;
    --seconds) shift; total=${1:-} ;;
    -h | --help) sed -n '2,13s/^# \{0,1\}//p' "$self"; exit 0 ;;
    *)
      grep -q "^$1 " <<<"$plan" || { echo "gpu.sh: must be an option or one of $(awk '{printf "%s ", $1}' <<<"$plan"), got $1" >&2; exit 2; }
      chosen+=" $1"
      ;;
  esac
  shift
done
case $total in '' | *[!0-9]*) echo "gpu.sh: --seconds: must be a whole number, got '$total'" >&2; exit 2 ;; esac

wanted() { [ -z "$chosen" ] || [[ " $chosen " == *" $1 "* ]]; }
kept_after() { # seconds kept for the wanted stages behind stage $1
  local found="" sum=0 name most least
  while read -r name most least; do
    [ -z "$found" ] || ! wanted "$name" || sum=$((sum + least))
    [ "$name" != "$1" ] || found=1
  done <<<"$plan"
  echo $sum
}
allowed() { # seconds that stage $1 (at most $2) may take if $3 are left
  local rest=$(($3 - $(kept_after "$1")))
  echo $((rest < $2 ? rest : $2))
}

if [ -n "$dry" ]; then
  left=$total
  echo "$total s in all; a stage may take at most:"
  while read -r name most least; do
    wanted "$name" || continue
    limit=$(allowed "$name" "$most" "$left")
    echo "  $name: $limit s (kept for it: $least s)"
    left=$((left - limit))
  done <<<"$plan"
  echo "  if every stage takes all it may, $((total - left)) s"
  exit 0
fi

python=${PYTHON:-python3}
python=$(command -v "$python") || { echo "gpu.sh: no such Python: ${PYTHON:-python3}" >&2; exit 2; }
case $python in /*) ;; *) python=$PWD/$python ;; esac # as it is called: resolving its links would leave its environment
work=$root/bench/out
out=${OUT:-$work}
site=$work/site
mkdir -p "$work" "$out" && out=$(cd "$out" && pwd) || exit 2
if [ -z "${CUDA_HOME:-}" ]; then # nvcc on the PATH may be a wrapper: a toolkit is where compiler and headers are
  nvcc=$(readlink -f "$(command -v nvcc)")
  for folder in "${nvcc%/bin/nvcc}" /usr/local/cuda /usr/local/cuda-*; do
    [ ! -x "$folder/bin/nvcc" ] || [ ! -e "$folder/include/cuda_runtime.h" ] || { CUDA_HOME=$folder; break; }
  done
fi
CUDA_HOME=${CUDA_HOME:-}
arch="" gpu=""
[ $mode != cuda ] || read -r arch gpu <<<"$(probe device)"
if [ $mode = cuda ] && [ -z "$arch" ]; then
  echo "gpu.sh: torch sees no GPU here; nothing but info makes sense (--rehearse runs on the CPU)"
  chosen=" info"
fi
slug=$(tr 'A-Z ' 'a-z-' <<<"${gpu:-no-gpu}" | tr -cd 'a-z0-9-')
[ $mode = cuda ] || slug=rehearsal
rows=$out/$slug.jsonl
if commit=$(git -C "$root" rev-parse --short=12 HEAD 2>/dev/null); then
  [ -z "$(git -C "$root" status --porcelain -uno 2>/dev/null)" ] || commit+=+
else
  commit=""
fi
export python work out site CUDA_HOME arch gpu rows mode
# The package under test, whatever else is installed; no fall-back to its reference; caches that go with bench/out.
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 DLM_KERNELS_STRICT=1 DLM_BENCH_COMMIT=${DLM_BENCH_COMMIT-$commit}
export TORCHINDUCTOR_CACHE_DIR=$work/inductor TRITON_CACHE_DIR=$work/triton CUDA_MODULE_LOADING=LAZY

exec 3>&1
failed=0 built="" summary=$out/summary.txt
: >"$summary"
record() {
  printf '%-10s %-34s %4d s\n' "$1" "$2" "$3" | tee -a "$summary"
}

while read -r name most least; do
  wanted "$name" || continue
  log=$out/$name.log
  case $name in agreement | graphs) log=$out/checks.log ;; table) log=$out/bench.log ;; esac # few files: not all come back
  limit=$(allowed "$name" "$most" $((total - SECONDS)))
  if [ "$limit" -lt 5 ]; then
    record "$name" "skipped: no time left" 0
    continue
  fi
  case $name in info | build | table) ;; *)
    if [ "$built" = no ]; then
      record "$name" "skipped: the build failed" 0
      continue
    fi ;;
  esac
  [ "$name" != graphs ] && [ "$name" != table ] && : >"$log"
  before=$SECONDS
  # Reads nothing: a stage must not eat the plan.
  GPU_SH_STAGE=$name limit=$limit timeout -k $grace $((limit - grace)) bash "$self" </dev/null >>"$log" 2>&1
  status=$?
  spent=$((SECONDS - before))
  case $status in
    0) word=ok ;;
    77) word=skipped ;;
    124 | 137) word="FAILED: out of its $limit s" ;;
    4) word="ok; a bar of speed is missed" ;;
    3) word="FAILED: nothing measured" ;;
    *) word="FAILED (status $status)" ;;
  esac
  case $name:$word in build:ok) built=yes ;; build:*) built=no ;; esac
  record "$name" "$word" "$spent"
  if [[ $word == FAILED* ]]; then
    failed=1
    grep -nE '^FAIL|(FAILED|ERROR) .*tests/|rror:|error |assert' "$log" | head -n 12 | cut -c1-240
    tail -n 12 "$log" | cut -c1-240
  fi
done <<<"$plan"

if [ $mode = cuda ] && [ -z "${OUT:-}" ] && [ -s "$rows" ] && wanted bench; then
  cp "$rows" "$root/bench/results/$slug.jsonl" && echo "rows: bench/results/$slug.jsonl"
fi
echo "$SECONDS s in all; logs and rows in ${OUT:-bench/out}"
cat "$summary"
exit $failed
