#!/usr/bin/env bash
# What an attention decoder brings beside CTC: no decoder, and one of each weighting, over seeds.
#
#   recipes/mini/heads.sh [options] [-- section.key=value ...]
#
#   --system softmax+alibi                    weighting+position of the encoder, the same for all
#   --decoders "softmax sigmoid"              weightings of the decoders, among tokens and across frames
#   --seeds "1 2 3"                           of the trainings
#   --hours 7.5 --corpus-seed 1               of training speech, and of the corpus
#   --dev 150, --test 400                     utterances of the other parts
#   --config conf/mini.yaml                  training configuration, the same for all but for the heads
#   --beam 8                                  hypotheses that the searches keep
#   --jobs 2                                  models trained side by side, one thread each
#
# CTC's share in rescoring and in joint search is tuned on the dev part. Leaves heads/heads.md and
# heads.json. A restart loses nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

system=softmax+alibi decoders='softmax sigmoid' seeds='1 2 3' hours=7.5 corpus_seed=1 dev=150 test=400
config=conf/mini.yaml beam=8 jobs=2
options='system decoders seeds hours corpus_seed dev test config beam jobs' paths='config'
decoder='decoder.num_layers=2 decoder.ff_dim=384 decoder.dropout=0.0' # as small as the encoder
source ../../tools/stages.sh
stages_check_systems "$system"
for weighting in $decoders; do heads=ctc+attention stages_check_systems "$weighting+${system#*+}"; done

stage data '' '' \
    asr prepare synthetic --out "$work/data" --hours "$hours" --seed "$corpus_seed" \
    --dev "$dev" --test "$test"

bases=$(printf '%s\n' ../../asr/conf/*.yaml)
stages_together "$jobs"
for seed in $seeds; do
    for heads in ctc $decoders; do
        of=ctc
        if [ "$heads" != ctc ]; then of=ctc+attention; fi
        # shellcheck disable=SC2046
        stage "train-$heads-s$seed" data "$config"$'\n'"$bases" \
            asr train --config "$config" --exp "$work/heads/$heads-s$seed" --resume \
            "data.train=[$work/data/train.cuts.jsonl.gz]" "data.dev=[$work/data/dev.cuts.jsonl.gz]" \
            "attention.weighting=${system%+*}" "attention.position=${system#*+}" "train.seed=$seed" \
            $(stages_heads "$of" "$heads") ${overrides[@]+"${overrides[@]}"}
    done
done
stages_wait

# both write into search.yaml, so one search is tuned after the other
for search in rescore joint; do
    stages_together "$jobs"
    for seed in $seeds; do
        for heads in $decoders; do
            stage "tune-$search-$heads-s$seed" "train-$heads-s$seed" '' \
                asr tune --model "$work/heads/$heads-s$seed" --cuts "$work/data/dev.cuts.jsonl.gz" \
                --search "$search" --beam "$beam" --threads 1
        done
    done
    stages_wait
done

# one at a time: their speed is part of the answer
decoded='' experiments=()
decode() {
    local name=$1 set=$2 needs=$3
    shift 3
    stage "decode-$name-$set" "$needs" '' \
        asr decode --model "$work/heads/$name" --cuts "$work/data/test.cuts.jsonl.gz" \
        --out "$work/heads/$name/decode/$set" --threads 1 "$@"
    decoded+=" decode-$name-$set"
}
for heads in ctc $decoders; do
    for seed in $seeds; do
        name=$heads-s$seed
        experiments+=("$work/heads/$name")
        decode "$name" test "train-$name"
        decode "$name" test-beam "train-$name" --search beam --beam "$beam"
        if [ "$heads" = ctc ]; then continue; fi
        decode "$name" test-decoder "train-$name" --head attention
        decode "$name" test-decoder-beam "train-$name" --head attention --search beam --beam "$beam"
        decode "$name" test-rescore "tune-rescore-$name" --search rescore --beam "$beam"
        decode "$name" test-joint "tune-joint-$name" --search joint --beam "$beam"
    done
done

stage report "$decoded" heads.py \
    python heads.py "${experiments[@]}" --made-by "$stages_command" --out "$work/heads/heads.md"
stages_finish
