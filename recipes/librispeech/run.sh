#!/usr/bin/env bash
# LibriSpeech, or any corpus in its layout -> models that differ in attention -> word error rates.
#
#   recipes/librispeech/run.sh --corpus DIR [options] [-- section.key=value ...]
#
#   --corpus DIR                     folder that holds the parts, or LibriSpeech/ with them inside
#   --download yes                   fetch the parts from OpenSLR (12 and 31) into --corpus first
#   --train "train-clean-100"        parts to train on
#   --dev dev-clean                  part that validation reads
#   --test "test-clean test-other"   parts to decode
#   --systems "sigmoid+alibi"        weighting+position of each model
#   --heads ctc                      of each model: ctc, ctc+attention or both ("ctc ctc+attention"),
#                                    attention being a decoder that weighs as the encoder does
#   --config conf/100h.yaml          training configuration: conf/100h.yaml, conf/960h.yaml, ...
#   --lm-text FILE                   text for the language models; default: the training transcripts
#   --lm-ids no                      yes: each line of that text begins with an id
#   --lm-order 3                     words per n-gram
#   --beam 16                        prefixes that the search with the n-gram model keeps
#   --neural-epochs 5                passes over the same text of the small neural language model that
#                                    ranks those prefixes anew, on the CPU; 0: without it
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

corpus=./corpus download=no train='train-clean-100' dev='dev-clean' test='test-clean test-other'
systems='sigmoid+alibi' heads=ctc config=conf/100h.yaml lm_text='' lm_order=3 beam=16
lm_ids=no neural_epochs=5
options='corpus download train dev test systems heads config lm_text lm_ids lm_order beam neural_epochs'
paths='corpus config lm_text'
source ../../tools/stages.sh
# shellcheck disable=SC2086
stages_check_systems $systems

fetch=()
if [ "$download" = yes ]; then fetch=(--download); fi
read -ra parts <<<"$train $dev $test"
stage prepare '' '' \
    asr prepare librispeech --corpus "$corpus" --out "$work/data" --parts "${parts[@]}" \
    ${fetch[@]+"${fetch[@]}"}

manifests='' transcripts=()
for part in $train; do
    manifests+=${manifests:+,}$work/data/$part.cuts.jsonl.gz
    transcripts+=("$work/data/$part.cuts.jsonl.gz")
done

lm=$work/lm/$lm_order-gram.arpa.gz
if [ -n "$lm_text" ]; then
    transcripts=("$lm_text")
    if [ "$lm_ids" = yes ]; then transcripts+=(--ids); fi
fi
stage lm prepare '' \
    asr lm train --text "${transcripts[@]}" --order "$lm_order" --out "$lm"

bases=$(printf '%s\n' ../../asr/conf/*.yaml)
decoded='' experiments=() models=()
for of in $heads; do
    for system in $systems; do models+=("$(basename "$config" .yaml)-${system/+/-}${of#ctc} $system $of"); done
done
for model in "${models[@]}"; do
    read -r name system of <<<"$model"
    exp=$work/exp/$name
    experiments+=("$exp")
    # shellcheck disable=SC2046
    stage "train-$name" prepare "$config"$'\n'"$bases" \
        asr train --config "$config" --exp "$exp" --resume \
        "data.train=[$manifests]" "data.dev=[$work/data/$dev.cuts.jsonl.gz]" \
        "attention.weighting=${system%+*}" "attention.position=${system#*+}" \
        $(stages_heads "$of" "$system") ${overrides[@]+"${overrides[@]}"}
    neural=() tune_needs="train-$name lm"
    if [ "$neural_epochs" != 0 ]; then
        # of the recogniser's tokens, so each recogniser has its own
        neural=(--neural "$work/lm/neural-$name") tune_needs+=" lm-neural-$name"
        stage "lm-neural-$name" "train-$name" '' \
            asr lm train-neural --text "${transcripts[@]}" --model "$exp" \
            --epochs "$neural_epochs" --out "$work/lm/neural-$name"
    fi
    # the language models' weights come from the dev part alone
    stage "tune-$name" "$tune_needs" '' \
        asr tune --model "$exp" --cuts "$work/data/$dev.cuts.jsonl.gz" --lm "$lm" --beam "$beam" \
        ${neural[@]+"${neural[@]}"}
    # those that ask the decoder too, with the n-gram model
    both=''
    if [ "$of" != ctc ]; then both='rescore joint'; fi
    for search in $both; do
        stage "tune-$search-$name" "$tune_needs" '' \
            asr tune --model "$exp" --cuts "$work/data/$dev.cuts.jsonl.gz" --search "$search" \
            --lm "$lm" --beam "$beam"
    done
    for part in $test; do
        stage "decode-$name-$part" "train-$name" '' \
            asr decode --model "$exp" --cuts "$work/data/$part.cuts.jsonl.gz"
        beam_search=(--search beam --beam "$beam" --lm "$lm")
        stage "decode-lm-$name-$part" "tune-$name" '' \
            asr decode --model "$exp" --cuts "$work/data/$part.cuts.jsonl.gz" \
            --out "$exp/decode/$part-lm" "${beam_search[@]}"
        decoded+=" decode-$name-$part decode-lm-$name-$part"
        for search in $both; do
            stage "decode-$search-$name-$part" "tune-$search-$name" '' \
                asr decode --model "$exp" --cuts "$work/data/$part.cuts.jsonl.gz" \
                --out "$exp/decode/$part-$search" --search "$search" --beam "$beam" --lm "$lm"
            decoded+=" decode-$search-$name-$part"
        done
        if [ "$neural_epochs" != 0 ]; then
            stage "decode-neural-$name-$part" "tune-$name" '' \
                asr decode --model "$exp" --cuts "$work/data/$part.cuts.jsonl.gz" \
                --out "$exp/decode/$part-neural" "${beam_search[@]}" "${neural[@]}"
            decoded+=" decode-neural-$name-$part"
        fi
    done
done

stage compare "$decoded" '' \
    asr compare "${experiments[@]}" --out "$work/exp"
stages_finish
