#!/usr/bin/env bash
# What only a machine with an NVIDIA GPU can show, on a bare one: PyTorch and Triton are enough, nothing
# is installed. Each stage is cut off after its seconds, writes its own file in OUT and can be run alone;
# what failed is said and passed over.
#
#   tools/gpu.sh OUT [STAGE[:SECONDS] ...]
#
#   facts      versions, the card, a large product and a copy                            (facts.json)
#   check      every kernel against float64, in as many processes as there are cores     (check.json)
#   sanitize   every kernel once under compute-sanitizer                                 (sanitize.txt)
#   modes      time of each way to compute a weight                                      (modes.json)
#   tune       tiles by time                                                             (tune.json)
#   table      attention beside PyTorch's, bf16, 512 to 64k frames                       (table.json)
#   tests      the kernels' own tests on the hardware; needs pytest                      (tests.txt)
#   mfu        model FLOPs utilisation of the 960 h preset; needs all dependencies       (mfu.json)
#
# Without stages: facts check sanitize modes table. Options, before OUT:
#   --rehearse       everything on the CPU in Triton's interpreter, tiny
#   --wheels DIR     wheels or unpacked packages that the machine lacks
#   --processes N    as many at once (default: cores)
set -uo pipefail

usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }
fail() { echo "gpu.sh: error: $*" >&2; exit 2; }

rehearse=no wheels='' processes=$(env -u OMP_NUM_THREADS nproc) # which would be its answer
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --rehearse) rehearse=yes ;;
        --wheels) wheels=$(realpath "${2?}"); shift ;;
        --processes) processes=${2?}; shift ;;
        --*) fail "no option $1; --help lists them" ;;
        *) break ;;
    esac
    shift
done
[ $# -ge 1 ] || { usage >&2; exit 2; }
out=$(realpath -m "$1")
shift
stages=("$@")
[ $# -gt 0 ] || stages=(facts check sanitize modes table)
for stage in "${stages[@]}"; do
    case ${stage%%:*} in
        facts | check | sanitize | modes | tune | table | tests | mfu) ;;
        *) fail "no stage of the name '${stage%%:*}'; --help lists them" ;;
    esac
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
unset PYTHONSAFEPATH # would hide what PYTHONPATH shows
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -n "$wheels" ]; then # a compiled library cannot be loaded out of a wheel, so they are unpacked
    for wheel in "$wheels"/*.whl; do [ -e "$wheel" ] && python3 -m zipfile -e "$wheel" "$work/wheels"; done
    wheels=$work/wheels:$wheels
fi
export PYTHONPATH=$root:$root/kernels:$root/tools${wheels:+:$wheels}${PYTHONPATH:+:$PYTHONPATH}
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$work/triton} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} CUBLAS_WORKSPACE_CONFIG=:4096:8
tiny=()
if [ "$rehearse" = yes ]; then
    export TRITON_INTERPRET=1
    tiny=(--rehearse)
else
    python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || fail "PyTorch sees no CUDA device"
fi
mkdir -p "$out"

facts() { python3 tools/gpu_facts.py --out "$out/facts.json" "${tiny[@]}"; }
check() {
    python3 tools/gpu_check.py --out "$out/check.json" --processes "$processes" \
        --limit-s "$((seconds - 8))" "${tiny[@]}"
}
sanitize() {
    local tool=(compute-sanitizer --tool memcheck --error-exitcode 9)
    if [ "$rehearse" = yes ]; then tool=(); fi
    "${tool[@]}" python3 tools/gpu_sanitize.py >"$out/sanitize.txt" 2>&1
    local code=$?
    grep -v '^=* *Host Frame\|^=* *$' "$out/sanitize.txt" | tail -n 20
    return $code
}
modes() {
    python3 tools/gpu_bench.py --out "$out/modes.json" --modes --processes "$processes" \
        --warm-s "$((seconds / 2))" --budget-s "$((seconds / 2 - 5))" "${tiny[@]}"
}
tune() {
    python3 tools/gpu_tune.py --out "$out/tune.json" --processes "$processes" \
        --limit-s "$((seconds - 5))" "${tiny[@]}"
}
table() {
    python3 tools/gpu_bench.py --out "$out/table.json" --processes "$processes" \
        --breakdown --warm-s "$((seconds * 2 / 5))" --budget-s "$((seconds * 3 / 5 - 9))" "${tiny[@]}"
}
tests() {
    python3 -m pytest -q -m "gpu and not slow" -p no:cacheprovider kernels/tests >"$out/tests.txt" 2>&1
    local code=$?
    tail -n 15 "$out/tests.txt"
    return $code
}
mfu() {
    python3 tools/gpu_mfu.py --out "$work/mfu" "${tiny[@]}"
    local code=$?
    cp "$work/mfu/mfu.json" "$out/"
    return $code
}

# Seconds a stage may take unless it is said.
usual() {
    case $1 in
        facts) echo 30 ;;
        check) echo 100 ;;
        sanitize) echo 40 ;;
        modes) echo 60 ;;
        tests) echo 90 ;;
        tune) echo 120 ;;
        table) echo 150 ;;
        mfu) echo 120 ;;
    esac
}

export -f facts check sanitize modes tune table tests mfu
export out processes rehearse work
failed=()
for stage in "${stages[@]}"; do
    name=${stage%%:*}
    case $stage in *:*) seconds=${stage#*:} ;; *) seconds=$(usual "$name") ;; esac
    echo "== $name, at most $seconds s"
    began=$SECONDS code=0
    tiny_words="${tiny[*]-}" seconds=$seconds timeout --kill-after=3 "$seconds" \
        bash -c 'tiny=($tiny_words); '"$name" || code=$?
    echo "== $name: status $code after $((SECONDS - began)) s"
    [ "$code" -eq 0 ] || failed+=("$name($code)")
done
echo "failed: ${failed[*]:-none}"
[ ${#failed[@]} -eq 0 ]
