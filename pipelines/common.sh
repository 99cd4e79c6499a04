# What the pipelines share: settings of presets and options, a stage as one shell pipeline, and how a run ends. To be
# sourced by a script that sets
#   self       its name, for messages
#   settings   NAME|STAGES|VALUE|HELP, a row each. A setting is the option --NAME, else the preset's variable STAGE_NAME,
#              else its variable NAME (with _ for -); one that is empty is left to the programs
#   stages     their names
#   own_values the names of options of its own that take a value, and the function own_value OPTION VALUE for them
#   own_flag   a function that takes an option of its own without a value; both fail where it is none of theirs
#   usage      a function that prints the help
# shellcheck shell=bash disable=SC2034,SC2154
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")

declare -A given=()
command='' model=${VP_MODEL:-} out='' preset=default continue='' files=() adapters=() words=() programs=()
resume='' piped='' dry_run='' show='' quiet='' help=''

fail() {
    echo "$self: $2" >&2
    exit "$1"
}

# ---- settings ----

# Of the setting $1: its stages in `of`; status 1 if there is none.
stages_of() {
    local row
    for row in "${settings[@]}"; do
        [ "${row%%|*}" = "$1" ] || continue
        IFS='|' read -r _ of _ <<<"$row"
        return
    done
    return 1
}

# The setting's value in $stage; nothing where the stage does not have it.
value_of() {
    local variable=${1//-/_}
    local staged=${stage}_$variable
    stages_of "$1" && [[ " $of " == *" $stage "* ]] || return 0
    printf '%s' "${given[$1]-${!staged-${!variable-}}}"
}

load_preset() {
    local row name stage file=$preset
    for row in "${settings[@]}"; do # nothing of the environment counts
        IFS='|' read -r name of _ <<<"$row"
        unset -v "${name//-/_}"
        for stage in $of; do unset -v "${stage}_${name//-/_}"; done
    done
    [[ $file == */* ]] || file=$here/presets/$preset
    if [ ! -r "$file" ] || [ -d "$file" ]; then
        fail 2 "--preset: no '$preset' in $here/presets: $(cd "$here/presets" && echo *)"
    fi
    # shellcheck disable=SC1090
    . "$file"
}

options_help() {
    cat <<'END'
Options:
  -m, --model PATH      folder or .gguf file; else $VP_MODEL
  -o, --out DIR         the run: adapter, checkpoints, log.jsonl
      --resume          go on with the run in DIR, if there is one: the same command again, and this
      --preset NAME     settings of pipelines/presets, or of a file [default]
      --adapter DIR     train a new adapter on top of this one, which stays as it is; may be repeated
      --continue DIR    go on training this adapter
      --piped           fwd, pool and loss as programs of their own: slower, the same bytes
  -n, --dry-run         print the pipelines, run nothing
      --show            print them, then run them
  -q, --quiet           errors only, no progress
  -h, --help            this text

END
}

# The presets, and the settings with what the preset has for each of their stages.
settings_help() {
    echo "Presets: $(cd "$here/presets" && echo *)"
    echo
    echo "Settings, with what preset '$preset' has for $(sed 's/ / | /g' <<<"${stages[*]}"):"
    local row name help value stage first same shown
    for row in "${settings[@]}"; do
        IFS='|' read -r name of value help <<<"$row"
        stage=${of%% *} same=1 shown=''
        first=$(value_of "$name")
        for stage in $of; do
            [ "$(value_of "$name")" = "$first" ] || same=''
            shown+=" | $(value_of "$name" | grep . || echo -)"
        done
        [ -z "$same" ] || shown=${first:+" | $first"}
        printf '      %-23s %s%s\n' "--$name $value" "$help" "${shown:+ [${shown:3}]}"
    done
    cat <<'END'

The programs are found beside this script, as built or as installed, or in $VP_BIN.
Exit status: that of the program that failed, see vecpipe(7); 2 for wrong usage, 130 when interrupted.
END
}

# Every setting that was given is one of the stage $1.
check_settings() {
    local name of
    for name in "${!given[@]}"; do
        stages_of "$name"
        [[ " $of " == *" $1 "* ]] || fail 2 "--$name: not a setting of $1"
    done
}

check_model_and_out() {
    [ -n "$model" ] || fail 2 "no model: give -m, or set VP_MODEL"
    [ -n "$out" ] || fail 2 "--out is missing"
}

# ---- the command line ----

take_value() {
    case $1 in
        -m | --model) model=$2 ;;
        -o | --out) out=${2%/} ;;
        --preset) preset=$2 ;;
        --adapter) adapters+=("$2") ;;
        --continue) continue=$2 ;;
        *) own_value "$1" "$2" || given[${1#--}]=$2 ;;
    esac
}

takes_none() { [[ " --help --resume --piped --dry-run --show --quiet " == *" $1 "* ]] || own_flag "$1"; }
parse() {
    local option
    while [ $# -gt 0 ]; do
        option=$1
        shift
        if [[ $option == --*=* ]]; then
            set -- "${option%%=*}" "${option#*=}" "$@"
            option=$1
            shift
            ! takes_none "$option" || fail 2 "$option: takes no value"
        fi
        case $option in
            -h | --help) help=1 ;;
            --resume) resume=1 ;;
            --piped) piped=1 ;;
            -n | --dry-run) dry_run=1 ;;
            --show) show=1 ;;
            -q | --quiet) quiet=1 ;;
            --)
                files+=("$@")
                break
                ;;
            -?*)
                ! own_flag "$option" || continue
                [[ " -m --model -o --out --preset --adapter --continue $own_values " == *" $option "* ]] || stages_of "${option#--}" ||
                    fail 2 "unknown option '$option': see $self --help"
                [ $# -gt 0 ] || fail 2 "$option: a value is missing"
                take_value "$option" "$1"
                shift
                ;;
            *) if [ -z "$command" ]; then command=$option; else files+=("$option"); fi ;;
        esac
    done
}

# Read the command line and the preset; --help, the script's usage, ends here.
begin() {
    trap 'exit 130' INT # without a trap, bash goes on when a child that ends at that moment did not die of it
    parse "$@"
    load_preset
    [ -n "$help" ] || return 0
    usage
    exit 0
}

# The programs beside this script go before all others: `mix` and `step` are also names of other people's programs.
find_programs() {
    local folder
    for folder in "${VP_BIN:-}" "$here/../build/bin" "$here/../../../libexec/vecpipe"; do
        [ -x "$folder/step" ] || continue
        folder=$(realpath "$folder")
        if [ "$(command -v step)" != "$folder/step" ]; then
            # shellcheck disable=SC2016
            [ -z "$dry_run" ] || printf 'PATH=%s:$PATH\n' "$(quoted "$folder")"
            PATH=$folder:$PATH
        fi
        return
    done
    command -v step >/dev/null || fail 4 "no programs in $here/../build/bin: run make, or set VP_BIN"
}

# ---- a stage as one pipeline ----

# A word as the shell reads it back.
quoted() {
    if [[ $1 =~ ^[A-Za-z0-9_./:=,+%@^-]+$ ]]; then
        printf '%s' "$1"
    elif [[ $1 == *[\'[:cntrl:]]* ]]; then
        printf '%q' "$1"
    else
        printf "'%s'" "$1"
    fi
}

# Words as a command, in lines of about 100 characters that begin with an option.
command_line() {
    local line='' text='' word
    for word; do
        if [[ $word == --* ]] && [ ${#line} -gt 80 ]; then
            text+="$line \\"$'\n        '
            line=''
        fi
        line+=${line:+ }$(quoted "$word")
    done
    printf '%s' "$text$line"
}

# Adds --OPTION VALUE to the array `words` for each of these settings that has a value; NAME:OPTION where the program
# calls it otherwise.
add() {
    local name value
    for name; do
        value=$(value_of "${name%%:*}")
        [ -z "$value" ] || words+=("--${name#*:}" "$value")
    done
}

# Adds the program in `words` to the array `programs`.
program() {
    programs+=("$(command_line "${words[@]}")")
}

# ---- running ----

# The first program that failed by itself; 6 and 141 (SIGPIPE) only say that a neighbour did.
first_failure() {
    local s
    for s; do case $s in 0 | 6 | 141) ;; *) return "$s" ;; esac done
    for s; do [ "$s" -eq 0 ] || return "$s"; done
}

interrupted() {
    echo "$self: interrupted: the same command with --resume goes on from the last checkpoint" >&2
    trap - INT
    kill -INT $$
}

run_pipeline() {
    local pipeline=$1 ended
    mkdir -p "$folder" || exit 4
    trap 'stopped=1' INT
    stopped=''
    eval "$pipeline"$'\nended=("${PIPESTATUS[@]}")' || true
    [ -z "$stopped" ] || interrupted
    trap 'exit 130' INT
    first_failure "${ended[@]}" || exit $?
}

# The programs, joined by pipes: printed, or run, or both.
run_programs() {
    local pipeline
    pipeline=$(printf '%s |\n    ' "${programs[@]}")
    pipeline=${pipeline% |*}
    [ -z "$dry_run" ] || printf 'mkdir -p %s\n%s\n' "$(quoted "$folder")" "$pipeline"
    [ -z "$show" ] || printf '%s\n' "$pipeline" >&2
    [ -n "$dry_run" ] || run_pipeline "$pipeline"
}
