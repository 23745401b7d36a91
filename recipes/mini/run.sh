#!/usr/bin/env bash
# Synthetic speech -> models that differ in attention alone -> a table of word error rates.
#
#   recipes/mini/run.sh [options] [-- section.key=value ...]
#
#   --systems "softmax+alibi sigmoid+alibi"   weighting+position of each model
#   --heads ctc                               of each model: ctc, ctc+attention or both ("ctc ctc+attention"),
#                                             attention being a decoder that weighs as the encoder does
#   --hours 7.5                               of training speech
#   --seed 1                                  of the corpus
#   --dev 150, --test 400                     utterances of the other parts
#   --config conf/mini.yaml                   training configuration
#   --jobs 2                                  models trained side by side, one thread each
#   --neural-epochs 0                         passes over the training texts of a small neural language
#                                             model that ranks beam search's results anew; 0: none
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

systems='softmax+alibi sigmoid+alibi' heads=ctc hours=7.5 seed=1 dev=150 test=400 config=conf/mini.yaml
jobs=2 neural_epochs=0
options='systems heads hours seed dev test config jobs neural_epochs' paths='config'
decoder='decoder.num_layers=2 decoder.ff_dim=384 decoder.dropout=0.0' # as small as the encoder
source ../../tools/stages.sh
# shellcheck disable=SC2086
stages_check_systems $systems

stage data '' '' \
    asr prepare synthetic --out "$work/data" --hours "$hours" --seed "$seed" \
    --dev "$dev" --test "$test"

bases=$(printf '%s\n' ../../asr/conf/*.yaml)
experiments=() models=()
for of in $heads; do
    for system in $systems; do
        name=${system/+/-}
        models+=("$name${of#ctc} $system $of")
    done
done
stages_together "$jobs"
for model in "${models[@]}"; do
    read -r name system of <<<"$model"
    exp=$work/exp/$name
    experiments+=("$exp")
    # shellcheck disable=SC2046
    stage "train-$name" data "$config"$'\n'"$bases" \
        asr train --config "$config" --exp "$exp" --resume \
        "data.train=[$work/data/train.cuts.jsonl.gz]" "data.dev=[$work/data/dev.cuts.jsonl.gz]" \
        "attention.weighting=${system%+*}" "attention.position=${system#*+}" \
        $(stages_heads "$of" "$system") ${overrides[@]+"${overrides[@]}"}
done
stages_wait

decoded=''
for model in "${models[@]}"; do
    read -r name _ of <<<"$model"
    stage "decode-$name" "train-$name" '' \
        asr decode --model "$work/exp/$name" --cuts "$work/data/test.cuts.jsonl.gz"
    decoded+=" decode-$name"
done

# A 3-gram of the training transcripts: one more row per model. Its weights are tuned on dev alone.
lm=$work/lm/train.arpa.gz
stage lm data '' \
    asr lm train --text "$work/data/train.cuts.jsonl.gz" --out "$lm"
if [ "$neural_epochs" != 0 ]; then
    stages_together "$jobs"
    for model in "${models[@]}"; do
        read -r name _ <<<"$model"
        stage "lm-neural-$name" "train-$name" '' \
            asr lm train-neural --text "$work/data/train.cuts.jsonl.gz" --model "$work/exp/$name" \
            --epochs "$neural_epochs" --threads 1 --out "$work/lm/neural-$name"
    done
    stages_wait
fi
stages_together "$jobs"
for model in "${models[@]}"; do
    read -r name _ of <<<"$model"
    neural=() needs="train-$name lm"
    if [ "$neural_epochs" != 0 ]; then
        neural=(--neural "$work/lm/neural-$name") needs+=" lm-neural-$name"
    fi
    stage "tune-$name" "$needs" '' \
        asr tune --model "$work/exp/$name" --cuts "$work/data/dev.cuts.jsonl.gz" \
        --lm "$lm" --threads 1 ${neural[@]+"${neural[@]}"}
done
stages_wait
stages_together "$jobs"
for model in "${models[@]}"; do
    read -r name _ of <<<"$model"
    beam_search=(--search beam --lm "$lm" --threads 1)
    stage "decode-lm-$name" "tune-$name" '' \
        asr decode --model "$work/exp/$name" --cuts "$work/data/test.cuts.jsonl.gz" \
        --out "$work/exp/$name/decode/test-lm" "${beam_search[@]}"
    decoded+=" decode-lm-$name"
    if [ "$neural_epochs" != 0 ]; then
        stage "decode-neural-$name" "tune-$name" '' \
            asr decode --model "$work/exp/$name" --cuts "$work/data/test.cuts.jsonl.gz" \
            --out "$work/exp/$name/decode/test-neural" "${beam_search[@]}" \
            --neural "$work/lm/neural-$name"
        decoded+=" decode-neural-$name"
    fi
done
stages_wait

# The searches that ask the decoder too, with the 3-gram. Weights are kept in one file, so one search is
# tuned after the other.
for search in rescore joint; do
    for step in tune decode; do
        stages_together "$jobs"
        for model in "${models[@]}"; do
            read -r name _ of <<<"$model"
            if [ "$of" = ctc ]; then continue; fi
            asked=(--model "$work/exp/$name" --search "$search" --lm "$lm" --threads 1)
            if [ "$step" = tune ]; then
                stage "tune-$search-$name" "train-$name lm" '' \
                    asr tune "${asked[@]}" --cuts "$work/data/dev.cuts.jsonl.gz"
            else
                stage "decode-$search-$name" "tune-$search-$name" '' \
                    asr decode "${asked[@]}" --cuts "$work/data/test.cuts.jsonl.gz" \
                    --out "$work/exp/$name/decode/test-$search"
                decoded+=" decode-$search-$name"
            fi
        done
        stages_wait
    done
done

stage compare "$decoded" '' \
    asr compare "${experiments[@]}" --out "$work/exp"
stages_finish
