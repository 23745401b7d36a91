#!/usr/bin/env bash
# What only a machine with an NVIDIA GPU can show. Every stage leaves its files in OUT and can be run alone.
#
#   tools/gpu.sh OUT check                  the kernels' tests on the hardware
#   tools/gpu.sh OUT tune                   tiles for this card, timed; changes the kernels' tables in place
#   tools/gpu.sh OUT table                  attention beside PyTorch's, bf16, 500 to 64k frames
#   tools/gpu.sh OUT speed TRAIN DEV        two manifests: training speed and model FLOPs utilisation of the
#                                           960 h preset, compiled, with a trace of its steps
#
# Models of real speech: recipes/librispeech/run.sh and grid.sh.
# OUT is given as an absolute path or from where you stand. Nothing but `tune` writes elsewhere.
set -euo pipefail

usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }
fail() { echo "gpu.sh: error: $*" >&2; exit 2; }
case ${1-} in -h | --help) usage; exit 0 ;; esac
[ $# -ge 2 ] || { usage >&2; exit 2; }

stage=$2
case $1 in /*) out=$1 ;; *) out=$PWD/$1 ;; esac
# what else is named is named from where the user stands
words=()
for word in "${@:3}"; do
    if [ -e "$word" ]; then word=$(realpath "$word"); fi
    words+=("$word")
done
case $stage in
    check | tune | table) [ ${#words[@]} -eq 0 ] || fail "$stage takes nothing more, got '${words[0]}'" ;;
    speed) [ ${#words[@]} -eq 2 ] || fail "speed takes two manifests: TRAIN and DEV" ;;
    *) fail "no stage of the name '$stage'; --help lists them" ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || fail "PyTorch sees no CUDA device"
mkdir -p "$out"

case $stage in
    check)
        PYTHONSAFEPATH=1 python -m pytest -q -m gpu tests/kernels 2>&1 | tee "$out/check.txt"
        ;;
    tune)
        python -m sigmoid_attention.triton.tune --keep --write 2>&1 | tee "$out/tune.txt"
        ;;
    table)
        # of equal work: heads x channels is 1024, frames x batch 16k and more
        python tools/bench_attention.py --device cuda --dtype bfloat16 --out "$out/attention-64" \
            --shapes 32,16,500,64 16,16,1024,64 8,16,2048,64 4,16,4096,64 1,16,16384,64 1,4,65536,64
        python tools/bench_attention.py --device cuda --dtype bfloat16 --out "$out/attention-128" \
            --shapes 32,8,500,128 16,8,1024,128 8,8,2048,128 4,8,4096,128 1,8,16384,128 1,2,65536,128
        # Transformer-XL at the size for which its bound is set
        python tools/bench_attention.py --device cuda --dtype bfloat16 --out "$out/attention-relative" \
            --shapes 32,8,1024,64 --positions none relative
        ;;
    speed)
        asr train --config recipes/librispeech/conf/960h.yaml --exp "$out/speed" --profile \
            "data.train=[${words[0]}]" "data.dev=[${words[1]}]" train.compile=true train.epochs=10 \
            train.global_batch_s=450 train.max_batch_s=450 train.validate_epochs=10 \
            tokenizer.vocab_size=256 train.average_checkpoints=1 train.average_what=last
        grep -o '"mfu": [0-9.]*' "$out/speed/log.jsonl" | tail -n 5
        ;;
esac
