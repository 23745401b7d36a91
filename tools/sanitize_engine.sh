#!/usr/bin/env bash
# Usage: tools/sanitize_engine.sh OUT TRAIN_CUTS DEV_CUTS [STEPS]
#
# Builds the C++ engine with AddressSanitizer and UndefinedBehaviorSanitizer, runs the kernel tests with it,
# then STEPS (200) training steps for each weighting, position and subsampling. Logs go to OUT; the exit
# status is not zero if anything failed. PYTHON chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "$1") train=$(realpath "$2") dev=$(realpath "$3") steps=${4:-200}
python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"

cat >"$out/c++" <<'END'
#!/bin/sh
exec g++ "$@" -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
END
chmod +x "$out/c++"
export CXX=$out/c++ XDG_CACHE_HOME=$out/cache OMP_NUM_THREADS=1 PYTHONSAFEPATH=1
export PYTHONPATH=$PWD:$PWD/kernels
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1
# the sanitizer's runtime must come first in the process; libstdc++ beside it, or it cannot see exceptions
preload="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so) $(g++ -print-file-name=libstdc++.so)"

failed=0
run() { # NAME COMMAND...: with the sanitizers, its output in OUT/NAME.log
    local name=$1 code=0
    shift
    LD_PRELOAD=$preload "$@" >"$out/$name.log" 2>&1 || code=$?
    if [ "$code" -ne 0 ] || grep -qE "runtime error:|AddressSanitizer" "$out/$name.log"; then
        failed=1
        echo "$name: failed ($code), see $out/$name.log"
    else
        echo "$name: $(grep -E "passed|^model  *mean" "$out/$name.log" | tail -1)"
    fi
}

run kernels "$python" -m pytest -q -p no:cacheprovider -m "not gpu" kernels/tests \
    --ignore kernels/tests/test_compile_gate.py --ignore kernels/tests/test_triton_interpreted.py \
    --ignore kernels/tests/test_memory.py # the sanitizer keeps what is freed
for weighting in softmax sigmoid relu; do
    for position in none alibi table relative; do
        for subsampling in 4 8; do
            name=$weighting-$position-$subsampling
            rm -rf "${out:?}/$name"
            run "$name" "$python" -m asr.cli train --exp "$out/$name" "data.train=[$train]" "data.dev=[$dev]" \
                attention.weighting=$weighting attention.position=$position encoder.subsampling=$subsampling \
                encoder.dim=96 encoder.ff_dim=192 encoder.num_layers=3 encoder.conv_kernel=15 \
                encoder.subsampling_channels=16 tokenizer.kind=char data.num_workers=0 train.num_threads=1 \
                train.tensorboard=false train.global_batch_s=20 train.max_batch_s=20 data.max_duration_s=20 \
                "data.max_utterances=$((steps * 3))" train.epochs=1 attention.backend=blockwise
        done
    done
done
exit $failed
