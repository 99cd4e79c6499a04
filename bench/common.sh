# Shared by the scripts that train and score, in whose `here` the project is: where the programs are, and figures of
# several seeds.
# shellcheck shell=bash disable=SC2154

for bin in "${VP_BIN:-}" "$here/build/bin"; do
    [ -n "$bin" ] && [ -x "$bin/tok" ] && PATH=$bin:$PATH && break
done

# whole FILE COMMAND...: its output, under that name when it is complete
whole() {
    local file=$1
    shift
    [ ! -s "$file" ] || return 0
    "$@" >"$file.new"
    mv "$file.new" "$file"
}

# The main score in a file's first line; a second one may be of differences.
main_score() { sed -n '1s/.*"main_score": *\([-0-9.e]*\).*/\1/p' "$1"; }

# cell FILE...: mean (standard deviation) of the main scores in those that are there, as a cell of a Markdown table.
cell() {
    local file
    for file in "$@"; do
        [ ! -s "$file" ] || main_score "$file"
    done | awk '{ n++; s += 100 * $1; q += 1e4 * $1 * $1 }
        END { if (n > 1) printf " %.1f (%.1f) |", s / n, sqrt((q - s * s / n) / (n - 1) + 1e-9)
              else if (n) printf " %.1f |", s; else printf " |" }'
}
