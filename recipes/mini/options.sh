#!/usr/bin/env bash
# What training options bring on the mini corpus, each against the same baseline, over seeds.
#
#   recipes/mini/options.sh [options] [-- section.key=value ...]
#
#   --seeds "1 2 3"                           of the trainings
#   --hours 10 --corpus-seed 1                of training speech, and of the corpus
#   --dev 150, --test 400                     utterances of the other parts
#   --config conf/grid.yaml                   training configuration of the baseline
#   --jobs 2                                  models trained side by side, one thread each
#
# Baseline, moving average and mean of checkpoints are of one training. SpecAugment stands in the table
# because CR-CTC needs it: its two views differ in nothing else. Decoded on the test part and on a noisy
# copy of it, whose noises and rooms are not those of training. A restart loses nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

seeds='1 2 3' hours=10 corpus_seed=1 dev=150 test=400 config=conf/grid.yaml jobs=2
options='seeds hours corpus_seed dev test config jobs' paths='config'
source ../../tools/stages.sh

stage data '' '' \
    asr prepare synthetic --out "$work/data" --hours "$hours" --seed "$corpus_seed" \
    --dev "$dev" --test "$test"
stage surroundings data surroundings.py \
    python surroundings.py --data "$work/data" --out "$work/surroundings"

near=$work/surroundings
training_of() {
    local masks='augment.num_freq_masks=2 augment.num_time_masks=10'
    case $1 in
        # the five checkpoints are of the last steps, and the moving average is over about as many
        plain) echo 'train.ema_decay=0.998 train.validate_steps=100 train.average_checkpoints=5' ;;
        specaugment) echo "$masks" ;;
        cr-ctc) echo "$masks ctc.consistency=0.2" ;;
        surroundings)
            echo "augment.noises=[$near/noises.cuts.jsonl.gz] augment.rooms=[$near/rooms.cuts.jsonl.gz]"
            ;;
    esac
}
averaging_of() {
    case $1 in
        baseline) echo '--own' ;;
        moving-average) echo '--last 1' ;;
        mean-of-5) echo '--own --last 5' ;;
    esac
}

bases=$(printf '%s\n' ../../asr/conf/*.yaml)
stages_together "$jobs"
for seed in $seeds; do
    for option in plain specaugment surroundings cr-ctc; do
        name=$option-s$seed
        # shellcheck disable=SC2046
        stage "train-$name" surroundings "$config"$'\n'"$bases" \
            asr train --config "$config" --exp "$work/runs/$name" --resume \
            "data.train=[$work/data/train.cuts.jsonl.gz]" "data.dev=[$work/data/dev.cuts.jsonl.gz]" \
            attention.weighting=sigmoid attention.position=alibi "train.seed=$seed" \
            $(training_of "$option") ${overrides[@]+"${overrides[@]}"}
    done
done
stages_wait

decoded='' experiments=()
for seed in $seeds; do
    for option in baseline moving-average mean-of-5; do
        # shellcheck disable=SC2046
        stage "average-$option-s$seed" "train-plain-s$seed" '' \
            asr average --exp "$work/runs/plain-s$seed" --out "$work/runs/$option-s$seed" \
            $(averaging_of "$option")
    done
    for option in baseline moving-average mean-of-5 specaugment cr-ctc surroundings; do
        name=$option-s$seed
        experiments+=("$work/runs/$name")
        if [ -n "$(averaging_of "$option")" ]; then made=average-$name; else made=train-$name; fi
        for cuts in "$work/data/test" "$near/test-noisy"; do
            stage "decode-${cuts##*/}-$name" "$made" '' \
                asr decode --model "$work/runs/$name" --cuts "$cuts.cuts.jsonl.gz" --threads 1
            decoded+=" decode-${cuts##*/}-$name"
        done
    done
done

stage report "$decoded" options.py \
    python options.py "${experiments[@]}" --out "$work/options.md"
stages_finish
