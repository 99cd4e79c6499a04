# The stream as programs see it from outside: damage, concatenation, compression, pipes. peek stands for every reader.
# also under sanitizers
load common

setup() { sed 's/#.*//' "$REPO/tests/streams/minimal.hex" | tr -d ' \n' | tr a-f A-F | basenc --base16 -d >minimal.vp; }

# reads STATUS: peek reads standard input and ends with that status; a failure is one line that names frame and byte.
reads() {
    expect "$1" peek || return 1
    [ "$1" -ne 0 ] || { [ ! -s err ] && return; }
    cat err
    [ "$(wc -l <err)" -eq 1 ] && grep -q '^peek: standard input: .*frame [0-9]* (byte [0-9]*): ' err
}

@test "a whole stream is read from a file, a pipe and a redirection" {
    expect 0 peek minimal.vp
    cp out want
    expect 0 peek <minimal.vp
    cmp out want
    head -c 235 minimal.vp | expect 0 peek
    cmp out want
    expect 0 peek - <minimal.vp
    cmp out want
}

@test "a stream that is cut off is an upstream program's death: 6" {
    for n in 0 1 2 3 10 66 67 68 69 100 190 191 192 200 234; do
        head -c "$n" minimal.vp | reads 6 || { echo "at byte $n"; false; }
    done
}

@test "a flipped bit is bad input: 3" {
    for at in 0 2 3 10 40 66 67 69 75 100 140 190 191 193 197 234; do
        head -c "$at" minimal.vp >bad.vp
        byte=$(tail -c +$((at + 1)) minimal.vp | head -c 1 | od -An -tu1)
        # shellcheck disable=SC2059
        printf "\\x$(printf %02x $((byte ^ 16)))" >>bad.vp
        tail -c +$((at + 2)) minimal.vp >>bad.vp
        reads 3 <bad.vp || { echo "at byte $at"; false; }
    done
}

@test "what is no stream is bad input: 3" {
    echo '{"id": "a", "text": "b"}' | reads 3
    echo '(text)' | reads 3
    head -c 4096 /dev/zero | reads 3
    grep -q 'frame 0 (byte 0)' err
}

@test "complete streams are one when they are concatenated" {
    cat minimal.vp minimal.vp minimal.vp | expect 0 peek --jsonl
    [ "$(wc -l <out)" -eq 6 ]
    cat minimal.vp minimal.vp | expect 0 peek
    grep -qx '  rows       4' out
    grep -qx '  batches    2' out
    { head -c 191 minimal.vp; cat minimal.vp; } | reads 6
    { cat minimal.vp; head -c 100 minimal.vp; } | reads 6
    { cat minimal.vp; echo; } | reads 3
}

@test "zstd is read as it is, cut off it is 6, damaged 3" {
    command -v zstd >/dev/null || skip "no zstd"
    zstd -q <minimal.vp >minimal.zst
    expect 0 peek minimal.vp
    cp out want
    expect 0 peek minimal.zst
    cmp out want
    cat minimal.zst minimal.zst | expect 0 peek --jsonl
    [ "$(wc -l <out)" -eq 4 ]
    n=$(wc -c <minimal.zst)
    for cut in 1 3 4 9 $((n / 2)) $((n - 1)); do
        head -c "$cut" minimal.zst | expect 6 peek
        [ "$(wc -l <err)" -eq 1 ]
    done
    { cat minimal.zst; echo garbage; } | expect 3 peek
    [ "$(wc -l <err)" -eq 1 ]
}

@test "a closed pipe ends a program by SIGPIPE, quietly" {
    for _ in {1..3000}; do cat minimal.vp; done >many.vp
    set +e
    peek many.vp 2>err | head -n 1 >first
    status=${PIPESTATUS[0]}
    set -e
    [ "$status" -eq 141 ]
    [ ! -s err ]
    [ -s first ]
}

@test "a full disk, an unreadable and a missing file are 4" {
    [ -w /dev/full ] || skip "no /dev/full"
    status=0
    peek minimal.vp >/dev/full 2>err || status=$?
    [ "$status" -eq 4 ]
    [ "$(wc -l <err)" -eq 1 ]
    refused 4 peek missing.vp
    refused 4 peek .
}

@test "a terminal is no stream" {
    need_terminal
    status=0
    script -qec 'peek' /dev/null </dev/null >out || status=$?
    [ "$status" -eq 2 ]
    grep -q 'is a terminal' out
}
