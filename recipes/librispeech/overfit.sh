#!/usr/bin/env bash
# A few utterances learnt by heart: must reach a word error rate near 0 on those same utterances.
#
#   recipes/librispeech/overfit.sh --corpus DIR [options] [-- section.key=value ...]
#
#   --corpus DIR                        folder that holds the parts
#   --part "train-clean-100"            part to take the utterances from
#   --min-s 8 --max-s 12 --first 16     which: the first in sorted order of that length
#   --systems "sigmoid+alibi softmax+relative"
#   --config conf/overfit.yaml
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

corpus=./corpus part=train-clean-100 min_s=8 max_s=12 first=16
systems='sigmoid+alibi softmax+relative' config=conf/overfit.yaml
options='corpus part min_s max_s first systems config' paths='corpus config'
source ../../tools/stages.sh

stage prepare '' '' \
    asr prepare librispeech --corpus "$corpus" --out "$work/data" --parts "$part"
cuts=$work/data/overfit.cuts.jsonl.gz
stage subset prepare '' \
    asr subset --cuts "$work/data/$part.cuts.jsonl.gz" --out "$cuts" \
    --min-s "$min_s" --max-s "$max_s" --first "$first"

bases=$(printf '%s\n' ../../asr/conf/*.yaml)
decoded='' experiments=()
for system in $systems; do
    weighting=${system%+*} position=${system#*+} name=overfit-${system/+/-}
    exp=$work/exp/$name
    experiments+=("$exp")
    stage "train-$name" subset "$config"$'\n'"$bases" \
        asr train --config "$config" --exp "$exp" --resume "data.train=[$cuts]" "data.dev=[$cuts]" \
        "attention.weighting=$weighting" "attention.position=$position" ${overrides[@]+"${overrides[@]}"}
    stage "decode-$name" "train-$name" '' \
        asr decode --model "$exp" --cuts "$cuts"
    decoded+=" decode-$name"
done

stage compare "$decoded" '' \
    asr compare "${experiments[@]}"
stages_finish
