# The documents hold: pages and --help name the same options, what is marked to run runs, tables agree with their source.
load common

programs() { sed -n 's/^X("\([a-z-]*\)".*/\1/p' "$REPO/tools/programs.def"; }

# Long options of a page's .It lines, and of --help of a program and its subcommands; --no-x counts as --x.
page_options() {
    grep '^\.It ' "$1" | grep -o 'Fl \\-[a-z-]*[a-z]\|Fl \\-no-[a-z-]*[a-z]' | sed 's/^Fl \\-//; s/^no-//' | sort -u
}
help_options() {
    grep -ho '^ *\(-[a-zA-Z], \)\?--[a-z[-]*\]\?[a-z-]*' "$@" | sed 's/.*--\(\[no-\]\|no-\)\?//' | sort -u
}

# The marked examples: in pages ".\" run" before a literal display, in Markdown "<!-- run -->" before an indented block.
examples_of() {
    case $1 in
        *.md)
            awk '/^<!-- run -->$/ { on = 1; next } on && /^    / { sub(/^    /, ""); print; seen = 1; next }
                on && seen && /^[^ ]/ { on = seen = 0 }' "$1" ;;
        *)
            awk '/^\.\\" run$/ { marked = 1; next } marked && /^\.Bd/ { on = 1; next } /^\.Ed/ { on = marked = 0 } on' "$1" |
                sed 's/\\e/\\/g; s/\\&//g; s/\\-/-/g' ;;
    esac
}

@test "every program has a page, and every page the parts of one" {
    for program in vp $(programs); do
        page=$REPO/man/$program.1
        [ -s "$page" ]
        for part in NAME SYNOPSIS DESCRIPTION OPTIONS 'EXIT STATUS' EXAMPLES 'SEE ALSO'; do
            grep -q "^\.Sh $part" "$page" || { echo "$program.1 lacks $part"; false; }
        done
    done
    [ -s "$REPO/man/vecpipe.5" ] && [ -s "$REPO/man/vecpipe.7" ]
}

@test "pages are formatted without a warning, and no line is wider than 80" {
    command -v groff >/dev/null || skip "no groff"
    for page in "$REPO"/man/*.[157]; do
        groff -mandoc -Tutf8 -ww -rLL=78n "$page" >page 2>warnings
        [ ! -s warnings ] || { cat warnings; false; }
        sed 's/.\x08//g' page >plain
        [ -z "$(grep '.\{81\}' plain)" ] || { grep '.\{81\}' plain; false; }
    done
}

@test "pages and --help name the same options" {
    for program in vp $(programs); do
        "$program" --help >help
        if [ "$program" = knn ]; then
            for command in $(knn_commands); do "$program" "$command" --help >>help; done
        fi
        [ "$program" != gen ] || gen rerank --help >>help
        help_options help >in-help
        page_options "$REPO/man/$program.1" >in-page
        diff in-help in-page || { echo "$program: < only in --help, > only in the page"; false; }
    done
}
knn_commands() { knn --help | sed -n 's/^knn \([a-z]*\) INDEX.*/\1/p'; }

@test "knn(1) names every command" {
    diff <(knn_commands) <(grep '^\.It Cm' "$REPO/man/knn.1" | cut -d ' ' -f 3)
}

@test "the columns of vecpipe(5) are those of the table" {
    awk '/^\.\\" columns: / { on = 1; next } /^\.\\" end of columns/ { on = 0 } on' "$REPO/man/vecpipe.5" >in-page
    "$REPO/schemas/table.sh" | diff - in-page
}

@test "summaries of vp, of --help and of the pages are the same" {
    while IFS='|' read -r name summary; do
        [ "$("$name" --help | head -1)" = "$name: $summary" ] || { echo "$name --help"; false; }
        grep -qxF ".Nd $summary" "$REPO/man/$name.1" || { echo "$name.1"; false; }
        grep -qxF "$summary" "$REPO/man/vp.1" || { echo "vp.1: $name"; false; }
    done < <(sed -n 's/^X("\([a-z-]*\)", "\(.*\)")$/\1|\2/p' "$REPO/tools/programs.def")
}

@test "the exit statuses of vecpipe(7) are those of the library" {
    sed -n 's/^ *X([A-Z]*, \([0-9]*\), "\(.*\)").*/\1|\2/p' "$REPO/lib/base/base.h" >in-header
    awk '/statuses: the table/ { on = 1 } on && /^\.It/ { code = $2; getline; print code "|" $0 } on && /^\.El/ { exit }' \
        "$REPO/man/vecpipe.7" >in-page
    [ -s in-header ]
    diff in-header in-page
}

@test "the marked examples of pages and README run" {
    need_models
    export VP_MODEL=$MINILM
    for document in "$REPO"/README.md "$REPO"/man/*.[157]; do
        rm -rf work
        mkdir work
        cp "$REPO"/examples/* work/
        mkdir work/build
        ln -s "$VP_BIN" work/build/bin
        ln -s "$REPO/models" "$REPO/examples" "$REPO/pipelines" work/
        examples_of "$document" >work/script
        [ -s work/script ] || continue
        (cd work && bash -euo pipefail script) >log 2>&1 || { echo "$document:"; cat work/script; tail -5 log; false; }
    done
}

@test "the pipelines that README prints are those of --dry-run" {
    need_models
    export VP_MODEL=models/SmolLM2-135M-Instruct.gguf
    ln -s "$REPO/models" "$REPO/pipelines" .
    mkdir -p run/mntp
    awk '/^    \$ / { print substr($0, 7) >("command" ++block); on = 1; next }
        on && /^    / { print substr($0, 5) >("wanted" block); next } { on = 0 }' "$REPO/README.md"
    [ -s command3 ]
    for command in command*; do
        bash "$command" >printed
        diff printed "${command/command/wanted}" || { cat "$command"; false; }
    done
}

@test "examples are found by their marks" {
    printf 'a\n<!-- run -->\n\n    true\n    echo "x" \\\\\n\nb\n\n    false\n' >x.md
    [ "$(examples_of x.md | wc -l)" -eq 2 ]
    [ "$(examples_of "$REPO/man/vp.1" | head -1)" = "vp help" ]
}
