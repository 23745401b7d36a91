#!/usr/bin/env bash
# WER against hours of training speech, weighting by weighting, with equal numbers of steps.
#
#   recipes/sample_efficiency/run.sh [options] [-- section.key=value ...]
#
#   --weightings "softmax sigmoid"
#   --position alibi
#   --shares "8 4 2 1"                        train on 1/8, 1/4, 1/2 and all of the hours
#   --seeds "1 2 3"                           of the trainings; a claim in words takes five
#   --hours 10 --corpus-seed 1                of training speech, and of the corpus
#   --dev 150, --test 400                     utterances of the other parts
#   --config ../mini/conf/grid.yaml           training configuration, the same for all
#   --epochs 1                                over all the hours; 8 times as many over 1/8
#   --jobs 2                                  models trained side by side, one thread each
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

weightings='softmax sigmoid' position=alibi shares='8 4 2 1' seeds='1 2 3'
hours=10 corpus_seed=1 dev=150 test=400 config=../mini/conf/grid.yaml epochs=1 jobs=2
options='weightings position shares seeds hours corpus_seed dev test config epochs jobs' paths='config'
source ../../tools/stages.sh

stage data '' '' \
    asr prepare synthetic --out "$work/data" --hours "$hours" --seed "$corpus_seed" \
    --dev "$dev" --test "$test"
for share in $shares; do
    stage "subset-1of$share" data '' \
        asr subset --cuts "$work/data/train.cuts.jsonl.gz" --every "$share" \
        --out "$work/data/train-1of$share.cuts.jsonl.gz"
done

bases=$(printf '%s\n' ../../asr/conf/*.yaml)
stages_together "$jobs"
for seed in $seeds; do
    for share in $shares; do
        for weighting in $weightings; do
            stage "train-$weighting-1of$share-s$seed" "subset-1of$share" "$config"$'\n'"$bases" \
                asr train --config "$config" --exp "$work/exp/1of$share/$weighting-s$seed" --resume \
                "data.train=[$work/data/train-1of$share.cuts.jsonl.gz]" \
                "data.dev=[$work/data/dev.cuts.jsonl.gz]" \
                "attention.weighting=$weighting" "attention.position=$position" "train.seed=$seed" \
                "train.epochs=$((epochs * share))" "train.validate_epochs=$((epochs * share))" \
                ${overrides[@]+"${overrides[@]}"}
        done
    done
done
stages_wait

compared='' folders=()
for share in $shares; do
    decoded='' experiments=()
    for weighting in $weightings; do
        for seed in $seeds; do
            exp=$work/exp/1of$share/$weighting-s$seed
            experiments+=("$exp")
            stage "decode-$weighting-1of$share-s$seed" "train-$weighting-1of$share-s$seed" '' \
                asr decode --model "$exp" --cuts "$work/data/test.cuts.jsonl.gz" --threads 1
            decoded+=" decode-$weighting-1of$share-s$seed"
        done
    done
    folders+=("$work/exp/1of$share")
    stage "compare-1of$share" "$decoded" '' \
        asr compare "${experiments[@]}" --out "$work/exp/1of$share"
    compared+=" compare-1of$share"
done

stage plot "$compared" hours.py \
    python hours.py "${folders[@]}" --data "$work/data" --out "$work/exp/hours"
stages_finish
