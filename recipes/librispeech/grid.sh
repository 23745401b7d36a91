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
# Leaves in grid/: report.html, grid.md and length.md (each with its picture), compare.json. length.md
# is of the first of --test alone, the others are in the report and in grid.md.
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
prepare=(asr prepare librispeech --corpus "$corpus" --out "$work/data" --parts "${parts[@]}")
data=prepare train_parts=$train dev_part=$dev test_parts=$test page=grid jobs=1 decode_options=''
source ../../tools/grid.sh
