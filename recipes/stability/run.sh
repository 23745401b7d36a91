#!/usr/bin/env bash
# The first steps of softmax, of sigmoid without a shift, and of sigmoid with one remedy each.
#
#   recipes/stability/run.sh [options] [-- section.key=value ...]
#
#   --systems "softmax none constant log-n none+layer-scale none+qk-norm none+hybrid-norm none+alibi"
#   --seeds "1"                               of the trainings
#   --lr 0.003                                learning rate, the same for all
#   --min-s 3                                 only utterances at least so long
#   --utterances 750                          at most so many of them, once each: the number of steps
#   --hours 10 --corpus-seed 1                of the corpus that they are taken from
#   --dev 150, --test 400                     utterances of its other parts
#   --config conf/stability.yaml              training configuration, the same for all
#   --jobs 1                                  models trained side by side, one thread each
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

systems='softmax none constant log-n none+layer-scale none+qk-norm none+hybrid-norm none+alibi'
seeds=1 lr=0.003 min_s=3 utterances=750
hours=10 corpus_seed=1 dev=150 test=400 config=conf/stability.yaml jobs=1
options='systems seeds lr min_s utterances hours corpus_seed dev test config jobs' paths='config'
source ../../tools/stages.sh

# What a system changes of the configuration.
settings() {
    case $1 in
        softmax) echo attention.weighting=softmax ;;
        none) echo attention.shift=none ;;
        constant) echo attention.shift=constant ;;
        log-n) echo 'attention.shift=-log n' ;;
        layer-scale) echo encoder.layer_scale=0.1 ;;
        qk-norm) echo attention.qk_norm=true ;;
        hybrid-norm) echo attention.output_norm=true ;;
        alibi) echo attention.position=alibi ;;
        *) stages_fail "no system of the name '$1'; --help lists them" ;;
    esac
}

stage data '' '' \
    asr prepare synthetic --out "$work/data" --hours "$hours" --seed "$corpus_seed" \
    --dev "$dev" --test "$test"
stage subset data '' \
    asr subset --cuts "$work/data/train.cuts.jsonl.gz" --min-s "$min_s" --first "$utterances" \
    --out "$work/exp/train.cuts.jsonl.gz"

bases=$(printf '%s\n' ../../asr/conf/*.yaml)
experiments=() trained=''
stages_together "$jobs"
for seed in $seeds; do
    for system in $systems; do
        words=()
        for part in ${system//+/ }; do words+=("$(settings "$part")"); done
        exp=$work/exp/$system-s$seed
        experiments+=("$exp")
        stage "train-$system-s$seed" subset "$config"$'\n'"$bases" \
            asr train --config "$config" --exp "$exp" --resume \
            "data.train=[$work/exp/train.cuts.jsonl.gz]" "data.dev=[$work/data/dev.cuts.jsonl.gz]" \
            "${words[@]}" "optimizer.lr=$lr" "train.seed=$seed" ${overrides[@]+"${overrides[@]}"}
        trained+=" train-$system-s$seed"
    done
done
stages_wait

stage plot "$trained" stability.py \
    python stability.py "${experiments[@]}" --out "$work/exp/stability" --made-by "$stages_command"
stages_finish
