#!/usr/bin/env bash
# What the n of sigmoid's shift -log n counts: trainings with each count, decoded alone and joined.
#
#   recipes/mini/counts.sh [options] [-- section.key=value ...]
#
#   --alibi-seeds "1 2 3 4 5"                 softmax, visible and effective counts, with ALiBi
#   --positions "rope relative"               softmax, visible count, trained exponents
#   --seeds "1 2 3"                           of the trainings with those positions
#   --hours 7.5 --corpus-seed 1               of training speech, and of the corpus
#   --dev 150, --test 1000                    utterances of the other parts; 1000 are two minutes a speaker
#   --config conf/mini.yaml                   training configuration
#   --lengths "15 30 60 120"                  seconds that the test set is joined to
#   --jobs 2                                  models trained side by side, one thread each
#
# Leaves counts/counts.md, its picture and counts.json. A restart loses nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

alibi_seeds='1 2 3 4 5' positions='rope relative' seeds='1 2 3' hours=7.5 corpus_seed=1 dev=150 test=1000
config=conf/mini.yaml lengths='15 30 60 120' jobs=2
options='alibi_seeds positions seeds hours corpus_seed dev test config lengths jobs' paths='config'
source ../../tools/stages.sh
# shellcheck disable=SC2086
stages_check_systems ${positions:+$(printf 'softmax+%s ' $positions)}

stage data '' '' \
    asr prepare synthetic --out "$work/data" --hours "$hours" --seed "$corpus_seed" \
    --dev "$dev" --test "$test"

for length in $lengths; do
    stage "join-${length}s" data '' \
        asr join --cuts "$work/data/test.cuts.jsonl.gz" --to-s "$length" \
        --out "$work/data/test-${length}s.cuts.jsonl.gz"
done

trainings=''
for seed in $alibi_seeds; do
    for what in softmax visible effective; do trainings+=" $what-alibi-s$seed"; done
done
for seed in $seeds; do
    for position in $positions; do
        for what in softmax visible exponent; do trainings+=" $what-$position-s$seed"; done
    done
done
attention_of() {
    case $1 in
        softmax) echo 'attention.weighting=softmax' ;;
        exponent) echo 'attention.weighting=sigmoid attention.count=visible attention.shift_exponent=true' ;;
        *) echo "attention.weighting=sigmoid attention.count=$1" ;;
    esac
}

bases=$(printf '%s\n' ../../asr/conf/*.yaml)
stages_together "$jobs"
for name in $trainings; do
    IFS=- read -r what position seed <<<"$name"
    # shellcheck disable=SC2046
    stage "train-$name" data "$config"$'\n'"$bases" \
        asr train --config "$config" --exp "$work/counts/$name" --resume \
        "data.train=[$work/data/train.cuts.jsonl.gz]" "data.dev=[$work/data/dev.cuts.jsonl.gz]" \
        $(attention_of "$what") "attention.position=$position" "train.seed=${seed#s}" \
        ${overrides[@]+"${overrides[@]}"}
done
stages_wait

decoded='' experiments=()
decode() {
    stage "decode-$1" "$2" '' \
        asr decode --model "$work/counts/$1" --cuts "$work/data/test.cuts.jsonl.gz" --threads 1
    decoded+=" decode-$1"
    local length
    for length in $lengths; do
        stage "decode-$1-${length}s" "$2 join-${length}s" '' \
            asr decode --model "$work/counts/$1" --cuts "$work/data/test-${length}s.cuts.jsonl.gz" \
            --threads 1
        decoded+=" decode-$1-${length}s"
    done
    experiments+=("$work/counts/$1")
}
for name in $trainings; do decode "$name" "train-$name"; done
for seed in $alibi_seeds; do
    stage "recount-s$seed" "train-visible-alibi-s$seed" counts.py \
        python counts.py --recount "$work/counts/visible-alibi-s$seed" \
        --out "$work/counts/recounted-alibi-s$seed"
    decode "recounted-alibi-s$seed" "recount-s$seed"
done

# shellcheck disable=SC2086
stage report "$decoded" counts.py \
    python counts.py "${experiments[@]}" --made-by "$stages_command" --out "$work/counts/counts.md"
stages_finish
