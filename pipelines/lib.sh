# What the recipes beside this file share: settings from presets and options, words to pipelines, running one and saying
# how it ended. Sourced with `name` of the script, `here`, `stages`, `settings`, and before `begin` also `valued` and
# `flags`: options of its own with and without a value, which its take_value OPTION VALUE and take_flag OPTION take.
# shellcheck shell=bash disable=SC2154,SC2034

declare -A given=()
command='' model=${VP_MODEL:-} out='' preset=default files=()
resume='' piped='' dry_run='' show='' quiet='' help=''

fail() {
    echo "$name: $2" >&2
    exit "$1"
}

is_in() {
    local word=$1 each
    shift
    for each; do [ "$each" != "$word" ] || return 0; done
    return 1
}

joined() {
    local between=$1 text=$2 each
    shift 2
    for each; do text+=$between$each; done
    echo "$text"
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
    local row setting stage file=$preset
    for row in "${settings[@]}"; do # nothing of the environment counts
        IFS='|' read -r setting of _ <<<"$row"
        unset "${setting//-/_}"
        for stage in $of; do unset "${stage}_${setting//-/_}"; done
    done
    [[ $file == */* ]] || file=$here/presets/$preset
    if [ ! -r "$file" ] || [ -d "$file" ]; then
        fail 2 "--preset: no '$preset' in $here/presets: $(cd "$here/presets" && echo *)"
    fi
    # shellcheck disable=SC1090
    . "$file"
}

show_settings() {
    echo "Presets: $(cd "$here/presets" && echo *)"
    echo
    echo "Settings, with what preset '$preset' has for $(joined ' | ' "${stages[@]}"):"
    local row setting help value stage first same shown
    for row in "${settings[@]}"; do
        IFS='|' read -r setting of value help <<<"$row"
        stage=${of%% *} same=1 shown=''
        first=$(value_of "$setting")
        for stage in $of; do
            [ "$(value_of "$setting")" = "$first" ] || same=''
            shown+=" | $(value_of "$setting" | grep . || echo -)"
        done
        [ -z "$same" ] || shown=${first:+" | $first"}
        printf '      %-23s %s%s\n' "--$setting $value" "$help" "${shown:+ [${shown:3}]}"
    done
    cat <<'END'

The programs are found beside this script, as built or as installed, or in $VP_BIN.
Exit status: that of the program that failed, see vecpipe(7); 2 for wrong usage, 130 when interrupted.
END
}

# Every setting that was given is one of this stage's.
check_settings() {
    local setting of
    for setting in "${!given[@]}"; do
        stages_of "$setting"
        [[ " $of " == *" $1 "* ]] || fail 2 "--$setting: not a setting of $1"
    done
}

check_model_and_out() {
    [ -n "$model" ] || fail 2 "no model: give -m, or set VP_MODEL"
    [ -n "$out" ] || fail 2 "--out is missing"
}

# ---- the command line ----

parse() {
    local option
    while [ $# -gt 0 ]; do
        option=$1
        shift
        case $option in
            --*=*)
                set -- "${option#*=}" "$@"
                option=${option%%=*}
                ;;
        esac
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
                if is_in "$option" "${flags[@]}"; then
                    take_flag "$option"
                    continue
                fi
                is_in "$option" -m --model -o --out --preset "${valued[@]}" || stages_of "${option#--}" ||
                    fail 2 "unknown option '$option': see $name --help"
                [ $# -gt 0 ] || fail 2 "$option: a value is missing"
                case $option in
                    -m | --model) model=$1 ;;
                    -o | --out) out=${1%/} ;;
                    --preset) preset=$1 ;;
                    *) if is_in "$option" "${valued[@]}"; then take_value "$option" "$1"; else given[${option#--}]=$1; fi ;;
                esac
                shift
                ;;
            *) if [ -z "$command" ]; then command=$option; else files+=("$option"); fi ;;
        esac
    done
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

# ---- words to pipelines ----

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
    local setting value
    for setting; do
        value=$(value_of "${setting%%:*}")
        [ -z "$value" ] || words+=("--${setting#*:}" "$value")
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
    echo "$name: interrupted: the same command with --resume goes on from the last checkpoint" >&2
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

# Print or run the pipeline in `programs`, in the run's folder.
finish_stage() {
    local pipeline
    pipeline=$(printf '%s |\n    ' "${programs[@]}")
    pipeline=${pipeline% |*}
    [ -z "$dry_run" ] || printf 'mkdir -p %s\n%s\n' "$(quoted "$folder")" "$pipeline"
    [ -z "$show" ] || printf '%s\n' "$pipeline" >&2
    [ -n "$dry_run" ] || run_pipeline "$pipeline"
}

# Read the command line and the preset; --help ends here.
begin() {
    trap 'exit 130' INT # without a trap, bash goes on when a child that ends at that moment did not die of it
    parse "$@"
    load_preset
    if [ -n "$help" ]; then
        usage
        exit 0
    fi
}
