#!/usr/bin/env bash
# Synthetic speech -> models that differ in attention alone -> a table of word error rates.
#
#   recipes/mini/run.sh [options] [-- section.key=value ...]
#
#   --systems "softmax+alibi sigmoid+alibi"   weighting+position of each model
#   --hours 10                                of training speech
#   --seed 1                                  of the corpus
#   --dev 150, --test 400                     utterances of the other parts
#   --config conf/mini.yaml                   training configuration
#   --jobs 2                                  models trained side by side, one thread each
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

systems='softmax+alibi sigmoid+alibi' hours=10 seed=1 dev=150 test=400 config=conf/mini.yaml
jobs=2
options='systems hours seed dev test config jobs' paths='config'
source ../../tools/stages.sh

stage data '' '' \
    asr prepare synthetic --out "$work/data" --hours "$hours" --seed "$seed" \
    --dev "$dev" --test "$test"

bases=$(echo ../../asr/conf/*.yaml)
experiments=()
stages_together "$jobs"
for system in $systems; do
    weighting=${system%+*} position=${system#*+} name=${system/+/-}
    exp=$work/exp/$name
    experiments+=("$exp")
    stage "train-$name" data "$config $bases" \
        asr train --config "$config" --exp "$exp" --resume \
        "data.train=[$work/data/train.cuts.jsonl.gz]" "data.dev=[$work/data/dev.cuts.jsonl.gz]" \
        "attention.weighting=$weighting" "attention.position=$position" ${overrides[@]+"${overrides[@]}"}
done
stages_wait

decoded=''
for system in $systems; do
    name=${system/+/-}
    stage "decode-$name" "train-$name" '' \
        asr decode --model "$work/exp/$name" --cuts "$work/data/test.cuts.jsonl.gz"
    decoded+=" decode-$name"
done

# A 3-gram of the training transcripts: one more row per model. Its weights are tuned on dev alone.
lm=$work/lm/train.arpa.gz
stage lm data '' \
    asr lm train --text "$work/data/train.cuts.jsonl.gz" --out "$lm"
stages_together "$jobs"
for system in $systems; do
    name=${system/+/-}
    stage "tune-$name" "train-$name lm" '' \
        asr tune --model "$work/exp/$name" --cuts "$work/data/dev.cuts.jsonl.gz" \
        --lm "$lm" --threads 1
done
stages_wait
stages_together "$jobs"
for system in $systems; do
    name=${system/+/-}
    stage "decode-lm-$name" "tune-$name" '' \
        asr decode --model "$work/exp/$name" --cuts "$work/data/test.cuts.jsonl.gz" \
        --out "$work/exp/$name/decode/test-lm" --search beam --lm "$lm" --threads 1
    decoded+=" decode-lm-$name"
done
stages_wait

stage compare "$decoded" '' \
    asr compare "${experiments[@]}" --out "$work/exp"
stages_finish
