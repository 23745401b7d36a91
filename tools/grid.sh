# The stages of a grid: every weighting x position x seed trained under equal budgets, decoded, compared.
# A recipe's grid.sh sources tools/stages.sh and then this file. Its options are weightings, positions, seeds,
# config and lengths at least, and it sets:
#
#   data, prepare                        name and command of the stage that makes $work/data/PART.cuts.jsonl.gz
#   train_parts, dev_part, test_parts    which of them are for what
#   page                                 name of the page to keep
#   jobs, decode_options                 models trained side by side; what decoding is given beside the set
#
# The first of test_parts is decoded once more for each of lengths, each speaker's utterances joined to it.
# Trainings are listed seed by seed, so that the first seed of every type is there early. Where one is
# trained at a time, it is decoded at once.

systems=()
for position in $positions; do
    for weighting in $weightings; do systems+=("$weighting+$position"); done
done
stages_check_systems "${systems[@]}"
stage "$data" '' '' "${prepare[@]}"

read -r joined_part _ <<<"$test_parts"
for length in $lengths; do
    stage "join-${length}s" "$data" '' \
        asr join --cuts "$work/data/$joined_part.cuts.jsonl.gz" --to-s "$length" \
        --out "$work/data/$joined_part-${length}s.cuts.jsonl.gz"
done

manifests='' bases=$(printf '%s\n' ../../asr/conf/*.yaml)
for part in $train_parts; do manifests+=${manifests:+,}$work/data/$part.cuts.jsonl.gz; done

decoded='' experiments=()
# a model, a part and what else the stage needs
grid_decode_part() {
    local stage=decode-$1-$2
    stage=${stage%-test}
    # shellcheck disable=SC2086
    stage "$stage" "train-$1 ${3-}" '' \
        asr decode --model "$work/grid/$1" --cuts "$work/data/$2.cuts.jsonl.gz" $decode_options
    decoded+=" $stage"
}
grid_decode() {
    local part length
    for part in $test_parts; do grid_decode_part "$1" "$part"; done
    for length in $lengths; do grid_decode_part "$1" "$joined_part-${length}s" "join-${length}s"; done
}

stages_together "$jobs"
for seed in $seeds; do
    for system in "${systems[@]}"; do
        name=${system/+/-}-s$seed
        experiments+=("$work/grid/$name")
        stage "train-$name" "$data" "$config"$'\n'"$bases" \
            asr train --config "$config" --exp "$work/grid/$name" --resume \
            "data.train=[$manifests]" "data.dev=[$work/data/$dev_part.cuts.jsonl.gz]" \
            "attention.weighting=${system%+*}" "attention.position=${system#*+}" "train.seed=$seed" \
            ${overrides[@]+"${overrides[@]}"}
        if [ "$jobs" = 1 ]; then grid_decode "$name"; fi
    done
done
stages_wait
if [ "$jobs" != 1 ]; then
    for exp in "${experiments[@]}"; do grid_decode "${exp##*/}"; done
fi

joined=()
[ -z "$lengths" ] || joined=(--length-page "$work/grid/length.md")
stage report "$decoded" '' \
    asr compare "${experiments[@]}" --out "$work/grid" --html "$work/grid/report.html" \
    --results "$work/RESULTS.md" --page "$work/grid/$page.md" ${joined[@]+"${joined[@]}"} \
    --made-by "$stages_command"
stages_finish
