# Runs a recipe's stages. A recipe's run.sh names its options with their defaults, sources this file and
# lists its stages:
#
#   hours=4 seed=1            # the recipe's own options: --hours 2 sets hours
#   options='hours seed' paths=''   # `paths`: those of the options that are paths
#   source ../../tools/stages.sh
#   stage NAME "STAGES IT NEEDS" "FILES IT READS, ONE PER LINE" COMMAND [ARGUMENT ...]
#   stages_finish
#
# stages_check_systems refuses a model that cannot be before anything runs; after `config` is set.
#
# $stages_command is the command as it was given, without what is of one machine: for a page that says how
# it was made. Stages between `stages_together N` and `stages_wait` run side by side, N at a time.
#
# A finished stage leaves $work/.done/NAME with a fingerprint of its command, of the contents of the
# files it reads and of the stages it needs. It is skipped while the fingerprint is the same and runs
# again when any of them changed.
#
# Stage options:
#   --list            number, name and state of every stage; runs nothing
#   --dry-run         the commands that would run; runs nothing
#   --stage S         only this stage (number or name), even if it is done
#   --from S, --to S  only the stages from S on, or up to S
#   --force           run finished stages again
#   --work DIR        where data, experiments and done-markers go (default: the recipe's folder)
#   --help            this text
#   -- KEY=VALUE ...  options of the training configuration (`asr config` lists them)

: "${work:=.}"
export PYTHONUNBUFFERED=1 # what a stage prints is seen when it is printed
overrides=()
stages_mode=run stages_only='' stages_from='' stages_to='' stages_force=no
stages_at_once=1 stages_running=''
stages_number=0 stages_started=no stages_ended=no stages_matched=no

stages_fail() {
    echo "$recipe: error: $*" >&2
    exit 2
}

stages_usage() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$script"
    sed -n '/^# Stage options/,/^[^#]/s/^# \{0,1\}//p' ../../tools/stages.sh
}

# A path that the user gave is relative to where the user stands, not to the recipe.
stages_path() {
    case " work $paths " in
        *" $1 "*) case $2 in /*) echo "$2" ;; *) echo "$OLDPWD/$2" ;; esac ;;
        *) echo "$2" ;;
    esac
}

script=$(basename "$0")
recipe=$(basename "$PWD")/$script
stages_command=recipes/$recipe
while [ $# -gt 0 ]; do
    case $1 in
        --list) stages_mode=list ;;
        --dry-run) stages_mode=dry-run ;;
        --force) stages_force=yes ;;
        --help | -h) stages_usage; exit 0 ;;
        --)
            shift
            overrides=("$@")
            stages_command+=" --$(printf " '%s'" "$@")"
            break
            ;;
        --*)
            name=${1#--} name=${name//-/_}
            case " stage from to work $options " in
                *" $name "*) ;;
                *) stages_fail "unknown option '$1'; --help lists them" ;;
            esac
            [ $# -ge 2 ] || stages_fail "$1 needs a value"
            case $name in
                stage) stages_only=$2 ;;
                from) stages_from=$2 ;;
                to) stages_to=$2 ;;
                *)
                    printf -v "$name" '%s' "$(stages_path "$name" "$2")"
                    case $name in work | jobs | corpus) ;; *) stages_command+=" $1 '$2'" ;; esac
                    ;;
            esac
            shift
            ;;
        *) stages_fail "unexpected '$1'; --help lists the options" ;;
    esac
    shift
done

# Whether models of these words, WEIGHTING+POSITION, can be configured, with each of $heads where the recipe
# has that option; the rest is that of all of them.
stages_check_systems() {
    local system of seen=' '
    for of in ${heads-ctc}; do
        case $seen in *" $of "*) stages_fail "--heads names '$of' twice" ;; esac
        seen+="$of "
        case $of in
            ctc | ctc+attention) ;;
            *) stages_fail "--heads '$of': choose of ctc and ctc+attention" ;;
        esac
        if [ "$stages_mode" != run ]; then continue; fi
        for system in "$@"; do
            # shellcheck disable=SC2046
            asr config --config "$config" "attention.weighting=${system%+*}" \
                "attention.position=${system#*+}" $(stages_heads "$of" "$system") \
                ${overrides[@]+"${overrides[@]}"} >/dev/null || exit 2
        done
    done
}

# The training options of a model's heads: a decoder weighs as the encoder does; $decoder: what else the
# recipe wants of it.
stages_heads() {
    local weighting=${2%+*}
    if [ "$1" = ctc ]; then return 0; fi
    echo "model.heads=[ctc,attention] ctc.weight=0.3 decoder.weight=0.7" \
        "decoder.weighting=$weighting decoder.cross_weighting=$weighting ${decoder-}"
}

# The fingerprint of standard input.
stages_hash() {
    if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -c1-16
}

# The variable that holds a stage's fingerprint for the stages that need it.
stages_variable() {
    echo "stages_print_${1//[^a-zA-Z0-9]/_}"
}

stage() {
    local name=$1 needs=$2 files=$3
    shift 3
    stages_number=$((stages_number + 1))
    local marker=$work/.done/$name print variable need file
    print=$(
        {
            printf '%s\n' "$@"
            for need in $needs; do
                variable=$(stages_variable "$need")
                echo "$need ${!variable-never listed}"
            done
            while IFS= read -r file; do
                if [ -z "$file" ]; then continue; fi
                if [ -f "$file" ]; then cat "$file"; else echo "missing $file"; fi
            done <<<"$files"
        } | stages_hash
    )
    printf -v "$(stages_variable "$name")" '%s' "$print"

    local state=todo
    if [ -f "$marker" ]; then
        if [ "$(cat "$marker")" = "$print" ]; then state=done; else state=changed; fi
    fi
    if [ "$stages_mode" = list ]; then
        printf '%2d  %-28s %s\n' "$stages_number" "$name" "$state"
        return 0
    fi
    stages_chosen "$name" || return 0
    if [ "$state" = done ] && [ "$stages_force" = no ] && [ -z "$stages_only" ]; then
        echo "stage $stages_number $name: done before, unchanged"
        return 0
    fi
    if [ "$stages_mode" = dry-run ]; then
        echo "stage $stages_number $name:"
        printf ' %q' "$@"
        echo
        return 0
    fi
    if [ "$stages_at_once" -eq 1 ]; then
        stages_run "$name" "$marker" "$print" "$state" "$@"
        return 0
    fi
    # pipefail is set by every recipe, so the subshell ends with the stage's own status
    (stages_run "$name" "$marker" "$print" "$state" "$@" 2>&1 | while IFS= read -r line; do
        echo "[$name] $line"
    done) &
    stages_running+=" $!"
    if [ "$(wc -w <<<"$stages_running")" -ge "$stages_at_once" ]; then stages_join; fi
}

stages_together() {
    stages_at_once=$1
}

stages_wait() {
    stages_join
    stages_at_once=1
}

stages_join() {
    local process code=0
    for process in $stages_running; do wait "$process" || code=$?; done
    stages_running=''
    if [ "$code" -ne 0 ]; then exit "$code"; fi
}

# Whether --stage, --from and --to let this stage run.
stages_chosen() {
    local chosen=yes
    case $stages_from in "$1" | "$stages_number") stages_started=yes ;; esac
    if [ -n "$stages_from" ] && [ "$stages_started" = no ]; then chosen=no; fi
    if [ "$stages_ended" = yes ]; then chosen=no; fi
    case $stages_to in "$1" | "$stages_number") stages_ended=yes ;; esac
    case $stages_only in '' | "$1" | "$stages_number") ;; *) chosen=no ;; esac
    if [ "$chosen" = yes ]; then stages_matched=yes; fi
    [ "$chosen" = yes ]
}

stages_run() {
    local name=$1 marker=$2 print=$3 state=$4 began=$SECONDS code=0
    shift 4
    local why=''
    if [ "$state" = changed ]; then why=' (what it depends on has changed)'; fi
    echo "stage $stages_number $name$why:"
    mkdir -p "$work/.done"
    rm -f "$marker"
    "$@" || code=$?
    if [ "$code" -ne 0 ]; then
        echo "$recipe: stage $stages_number $name failed with status $code" >&2
        exit "$code"
    fi
    echo "$print" >"$marker"
    echo "stage $stages_number $name: done in $((SECONDS - began)) s"
}

# The last line of a recipe: a stage that was asked for and does not exist is an error.
stages_finish() {
    if [ "$stages_mode" = list ]; then return 0; fi
    if [ "$stages_matched" = no ]; then
        stages_fail "no stage '${stages_only:-$stages_from}'; --list shows them"
    fi
    if [ -n "$stages_to" ] && [ "$stages_ended" = no ]; then
        stages_fail "no stage '$stages_to'; --list shows them"
    fi
}
