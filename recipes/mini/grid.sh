#!/usr/bin/env bash
# Weighting x position x seed under equal budgets -> one report, pages to keep, and rows of RESULTS.md.
#
#   recipes/mini/grid.sh [options] [-- section.key=value ...]
#
#   --weightings "softmax sigmoid"
#   --positions "none sinusoidal cape rope alibi relative"
#   --seeds "1 2 3"                           of the trainings; a claim in words takes five
#   --hours 10 --corpus-seed 1                of training speech, and of the corpus
#   --dev 150, --test 1000                    utterances of the other parts; 1000 are two minutes a speaker
#   --config conf/grid.yaml                   training configuration, the same for all
#   --jobs 2                                  models trained side by side, one thread each
#   --lengths "15 30 60 120"                  seconds that the test set is joined to; '' for none
#
# Leaves in grid/: report.html, mini-grid.md and length.md (each with its picture), compare.json.
# A run that was interrupted goes on where it was, and nothing that is done is done again. Trainings
# are listed seed by seed, so that the first seed of every type is there early.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

weightings='softmax sigmoid' positions='none sinusoidal cape rope alibi relative' seeds='1 2 3'
hours=10 corpus_seed=1 dev=150 test=1000 config=conf/grid.yaml jobs=2
lengths='15 30 60 120'
options='weightings positions seeds hours corpus_seed dev test config jobs lengths' paths='config'
source ../../tools/stages.sh

prepare=(
    asr prepare synthetic --out "$work/data" --hours "$hours" --seed "$corpus_seed"
    --dev "$dev" --test "$test"
)
data=data train_parts=train dev_part=dev test_parts=test page=mini-grid decode_options='--threads 1'
source ../../tools/grid.sh
