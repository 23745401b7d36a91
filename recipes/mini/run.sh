#!/usr/bin/env bash
# Synthetic speech -> models that differ in attention alone -> a table of word error rates.
#
#   recipes/mini/run.sh [options] [-- section.key=value ...]
#
#   --systems "softmax+alibi sigmoid+alibi"   weighting+position of each model
#   --hours 4                                 of training speech
#   --seed 1                                  of the corpus
#   --dev 150, --test 400                     utterances of the other parts
#   --config conf/mini.yaml                   training configuration
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

systems='softmax+alibi sigmoid+alibi' hours=4 seed=1 dev=150 test=400 config=conf/mini.yaml
options='systems hours seed dev test config' paths='config'
source ../../tools/stages.sh

stage data '' '' \
    asr prepare synthetic --out "$work/data" --hours "$hours" --seed "$seed" \
    --dev "$dev" --test "$test"

decoded='' experiments=()
for system in $systems; do
    weighting=${system%+*} position=${system#*+} name=${system/+/-}
    exp=$work/exp/$name
    experiments+=("$exp")
    stage "train-$name" data "$config" \
        asr train --config "$config" --exp "$exp" --resume \
        "data.train=[$work/data/train.cuts.jsonl.gz]" "data.dev=[$work/data/dev.cuts.jsonl.gz]" \
        "attention.weighting=$weighting" "attention.position=$position" ${overrides[@]+"${overrides[@]}"}
    stage "decode-$name" "train-$name" '' \
        asr decode --model "$exp" --cuts "$work/data/test.cuts.jsonl.gz"
    decoded+=" decode-$name"
done

stage compare "$decoded" '' \
    asr compare "${experiments[@]}" --out "$work/exp"
stages_finish
