#!/usr/bin/env bash
# Weighting x position x seed on LibriSpeech under equal budgets -> one report, and rows of RESULTS.md.
#
#   recipes/librispeech/grid.sh --corpus DIR [options] [-- section.key=value ...]
#
#   --corpus DIR                     folder that holds the parts, or LibriSpeech/ with them inside
#   --weightings "softmax sigmoid"
#   --positions "none sinusoidal cape rope alibi relative"
#   --seeds "1 2 3"                  of the trainings; a claim in words takes five
#   --train "train-clean-100"        parts to train on
#   --dev dev-clean                  part that validation reads
#   --test "test-clean test-other"   parts to decode
#   --config conf/100h.yaml          training configuration, the same for all
#   --lengths "15 30 60 120"         seconds that the first of --test is joined to; '' for none
#
# Leaves in grid/: report.html, grid.md and length.md (each with its picture), compare.json.
# A run that was interrupted goes on where it was, and nothing that is done is done again. Trainings
# are listed seed by seed, so that the first seed of every type is there early.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

corpus=./corpus train='train-clean-100' dev='dev-clean' test='test-clean test-other'
weightings='softmax sigmoid' positions='none sinusoidal cape rope alibi relative' seeds='1 2 3'
config=conf/100h.yaml lengths='15 30 60 120'
options='corpus weightings positions seeds train dev test config lengths' paths='corpus config'
source ../../tools/stages.sh

read -ra parts <<<"$train $dev $test"
stage prepare '' '' \
    asr prepare librispeech --corpus "$corpus" --out "$work/data" --parts "${parts[@]}"

manifests=''
for part in $train; do manifests+=${manifests:+,}$work/data/$part.cuts.jsonl.gz; done

bases=$(printf '%s\n' ../../asr/conf/*.yaml)
decoded='' experiments=()
for seed in $seeds; do
    for position in $positions; do
        for weighting in $weightings; do
            name=$weighting-$position-s$seed
            exp=$work/grid/$name
            experiments+=("$exp")
            stage "train-$name" prepare "$config"$'\n'"$bases" \
                asr train --config "$config" --exp "$exp" --resume \
                "data.train=[$manifests]" "data.dev=[$work/data/$dev.cuts.jsonl.gz]" \
                "attention.weighting=$weighting" "attention.position=$position" "train.seed=$seed" \
                ${overrides[@]+"${overrides[@]}"}
            for part in $test; do
                stage "decode-$name-$part" "train-$name" '' \
                    asr decode --model "$exp" --cuts "$work/data/$part.cuts.jsonl.gz"
                decoded+=" decode-$name-$part"
            done
        done
    done
done

stage page "$decoded" '' \
    asr compare "${experiments[@]}" --results "$work/RESULTS.md" --page "$work/grid/grid.md" \
    --made-by "$stages_command"
joined=()
[ -z "$lengths" ] || joined=(--page "$work/grid/length.md" --made-by "$stages_command" --lengths $lengths)
stage report "$decoded" '' \
    asr compare "${experiments[@]}" --out "$work/grid" --html "$work/grid/report.html" \
    ${joined[@]+"${joined[@]}"}
stages_finish
