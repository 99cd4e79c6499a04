# vp: finds its programs in a build and in an installation, lists them, hands everything on.
# also under sanitizers
load common

@test "vp without a name: status 2 and a hint" {
    refused 2 vp
    grep -q 'vp help' err
}

@test "vp help lists every program with its summary" {
    expect 0 vp help
    while IFS='|' read -r name summary; do
        grep -q "^  vp $name  *$summary$" out
    done < <(sed -n 's/^X("\([a-z-]*\)", "\(.*\)")$/\1|\2/p' "$REPO/tools/programs.def")
}

@test "an unknown program: status 2 and a hint" {
    refused 2 vp nonsense
    grep -qx 'vp: nonsense: no such program; see vp help' err
    refused 2 vp help nonsense
    refused 2 vp help tok fwd
    refused 2 vp env more
}

@test "vp PROGRAM runs it with its options, its streams and its status" {
    expect 0 vp tok --version
    grep -q '^tok ' out
    expect 2 vp tok --no-such-option
    grep -q '^tok: --no-such-option' err
}

@test "vp help PROGRAM shows its options where there is no terminal" {
    expect 0 vp help tok
    cp out help
    expect 0 tok --help
    cmp out help
    expect 0 vp help vp
    grep -q '^Usage: vp' out
}

@test "vp env puts the programs on PATH, also from a folder with blanks and quotes" {
    mkdir -p "it's here"
    cp "$VP_BIN/vp" "$VP_BIN/tok" "it's here/"
    PATH=/usr/bin:/bin
    eval "$("./it's here/vp" env)"
    [ "$(command -v tok)" = "$PWD/it's here/tok" ]
}

@test "vp does not hand its own signal settings on" {
    mkdir bin
    cp "$VP_BIN/vp" bin/
    printf '#!/bin/sh\ngrep SigIgn /proc/self/status\n' >bin/tok
    chmod +x bin/tok
    here=$(bin/tok)
    [ "$(bin/vp tok)" = "$here" ]
}

@test "vp alone says where it looked" {
    mkdir bin
    cp "$VP_BIN/vp" bin/
    expect 4 bin/vp tok
    grep -q 'libexec/vecpipe' err
}
