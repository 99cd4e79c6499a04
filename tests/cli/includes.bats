# Dependencies point one way: tools -> lib/vecpipe.h -> lib -> kernels/ops.h -> a backend.
load common

setup() { cd "$REPO" || return; }

# quoted FILES...: "file: header" for every #include "header"; every file must be there.
quoted() {
    ls -- "$@" >/dev/null || exit 1
    grep -Ho '^ *# *include *"[^"]*"' "$@" | sed 's/: *# *include *"/: /; s/"$//'
}

# only PATTERN FILES...: every quoted include matches the extended regular expression.
only() {
    local pattern=$1 bad all
    shift
    all=$(quoted "$@") || return 1
    bad=$(grep -Ev ": ($pattern)$" <<<"$all") || return 0
    echo "wrong include:"
    echo "$bad"
    return 1
}

@test "a wrong include is seen" {
    cd "$BATS_TEST_TMPDIR"
    printf '#include "lib/model/model.h"\n#include <stdio.h>\n' >wrong.c
    run only 'lib/base/base\.h' wrong.c
    [ "$status" -eq 1 ]
    [[ $output == *"wrong.c: lib/model/model.h"* ]]
    only 'lib/(model|base)/.*' wrong.c
    run only '.*' missing/*.c
    [ "$status" -eq 1 ]
}

@test "tools include lib/vecpipe.h, their own tables and nothing else" {
    only 'lib/vecpipe\.h|tools/[a-z_]+\.(h|def)' tools/*.[ch]
}

@test "lib/base includes itself " {
    only 'lib/base/.*' lib/base/*.[ch]
}

@test "lib/cli includes base" {
    only 'lib/(base|cli)/.*' lib/cli/*.[ch]
}

@test "lib/stream includes base and the table of columns" {
    only 'lib/(base|stream)/.*|schemas/columns\.def' lib/stream/*.[ch]
}

@test "lib/file includes base " {
    only 'lib/(base|file)/.*' lib/file/*.[ch]
}

@test "lib/text includes base, stream and what reads model files" {
    only 'lib/(base|stream|text|file)/.*' lib/text/*.[ch]
}

@test "lib/model reaches arithmetic through kernels/ops.h, opens a device by kernels/load.h, plans by kernels/plan.h" {
    only 'lib/(base|file|stream|model)/.*|lib/index/(index|kv)\.h|kernels/(ops|load|plan)\.h' lib/model/*.[ch]
}

@test "lib/index does not know models, and opens a device by kernels/load.h" {
    only 'lib/(base|stream|text|index)/.*|kernels/(ops|load)\.h' lib/index/*.[ch]
}

@test "lib/train includes base, stream, text and model, and reaches arithmetic through kernels/ops.h" {
    only 'lib/(base|stream|text|file|model|train)/.*|kernels/ops\.h' lib/train/*.[ch]
}

@test "lib/gen includes base, stream, text and model, and reaches arithmetic through kernels/ops.h" {
    only 'lib/(base|stream|text|model|gen)/.*|lib/index/(index|kv|idset)\.h|kernels/ops\.h' lib/gen/*.[ch]
}

@test "lib/score does not know models nor indexes" {
    only 'lib/(base|stream|text|score)/.*|lib/train/permute\.h|kernels/ops\.h' lib/score/*.[ch]
}

@test "lib/mine knows records and indexes" {
    only 'lib/(base|stream|text|index|mine)/.*|kernels/ops\.h' lib/mine/*.[ch]
}

@test "kernels include base and themselves" {
    only 'lib/base/.*|kernels/.*' kernels/*.h kernels/*/*.[ch]
}

@test "no backend includes another, and ops.h includes none" {
    only 'lib/base/.*|kernels/[a-z_]+\.h' kernels/*.h
    only 'lib/base/.*|kernels/([a-z_]+\.h|cpu/.*)' kernels/cpu/*.[ch]
    only 'kernels/[a-z_]+\.h' kernels/plan/*.[ch]
}

@test "tests include public headers and the library's private ones, never a .c file" {
    only '.*\.(h|def)' tests/unit/*.[ch] lib/*/*.[ch] kernels/*/*.[ch] tools/*.[ch]
}

@test "oneDNN is included by one file" {
    run bash -c "cd '$REPO' && grep -rl 'include.*<.*dnnl' lib kernels tools | wc -l"
    [ "$output" -le 1 ]
}
