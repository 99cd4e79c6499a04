# What every program does: --help, --version, wrong usage, a full disk, closed descriptors, signals.
# also under sanitizers
load common

programs() { sed -n 's/^X("\([a-z-]*\)".*/\1/p' "$REPO/tools/programs.def"; }

@test "--help: status 0, on standard output, at most 80 columns" {
    for program in vp $(programs); do
        expect 0 "$program" --help
        [ ! -s err ]
        head -1 out | grep -q "^$program: "
        grep -q "^Usage: $program" out
        [ -z "$(grep '.\{81\}' out)" ]
    done
}

@test "--version names the program and the version" {
    for program in vp $(programs); do
        expect 0 "$program" --version
        [ ! -s err ]
        grep -Eq "^$program \(vecpipe\) [0-9]+\.[0-9]+\.[0-9]+$" out
        [ "$(wc -l <out)" -eq 1 ]
    done
}

@test "an unknown option: status 2 and one line that names it" {
    for program in vp $(programs); do
        refused 2 "$program" --no-such-option
        grep -q -- "--no-such-option" err
    done
}

@test "help on a full disk: status 4" {
    for program in vp $(programs); do
        status=0
        "$program" --help >/dev/full 2>err || status=$?
        [ $status -eq 4 ]
        grep -qx "$program: cannot write standard output: No space left on device" err
    done
}

@test "help with standard output closed: status 4" {
    for program in vp $(programs); do
        status=0
        "$program" --help 2>err >&- || status=$?
        [ $status -eq 4 ]
        [ "$(wc -l <err)" -eq 1 ]
    done
}

@test "control characters in an error are escaped" {
    refused 2 tok $'--no\e[31m-\nsuch'
    grep -q '\\x1b\[31m-\\nsuch' err
}

@test "a closed pipe ends a program by SIGPIPE, or with status 4 where the parent ignores it" {
    status=0
    (
        set +e
        sleep 0.3
        exec tok --help
    ) 2>err > >(exec true) || status=$?
    [ $status -eq 141 ]
    [ ! -s err ]
    status=0
    (
        trap '' PIPE
        sleep 0.3
        exec tok --help
    ) 2>err > >(exec true) || status=$?
    [ $status -eq 4 ]
    grep -q 'Broken pipe' err
}

@test "SIGTERM and SIGINT end a program that waits for input, at once" {
    mkfifo waits
    exec 7<>waits
    for signal in TERM INT; do
        # started by env with default signals: the shell's background jobs ignore SIGINT
        env --default-signal=INT pool mean <&7 >out 2>err &
        pid=$!
        sleep 0.3
        kill -s $signal $pid
        status=0
        wait $pid || status=$?
        [ $status -eq $((128 + $(kill -l $signal))) ]
    done
}

@test "progress: on a terminal only, drawn by the last program of a pipe, erased at the end" {
    need_models
    need_terminal
    pipe="tok -m '$MINILM' '$REPO/examples/corpus.jsonl' | fwd | pool >emb.vp"
    VP_TOTAL=60 script -qec "$pipe" typescript >/dev/null
    grep -q 'pool \[####.* 60/60 rows .* ETA 0:00' typescript
    [[ $(cat typescript) != *'fwd ['* ]]
    [[ $(cat typescript) == *$'\r\e[K'$'\n'* || $(tail -c 200 typescript) == *$'\r\e[K'* ]]
    script -qec "$pipe" typescript >/dev/null
    grep -q 'pool  [0-9,]* rows' typescript
    bash -c "$pipe" 2>err
    [ ! -s err ]
}

@test "-v: totals in one line, also without a terminal" {
    need_models
    tok -m "$MINILM" "$REPO/examples/corpus.jsonl" >ids.vp
    fwd -v <ids.vp 2>err >hidden.vp
    grep -Eqx 'fwd: 60 rows, [0-9,]+ tokens, [0-9,]+ tokens/s, [0-9.]+ s, peak memory [0-9]+ MiB' err
}

@test "--log: programs of a pipe append their totals and how they ended to one file" {
    need_models
    echo hello | tok --log log -m "$MINILM" --lines | fwd --log log | pool --log log >emb
    [ "$(grep -c '"event":"end","status":0}$' log)" -eq 3 ]
    grep -q '"program":"tok","event":"texts",.*"rows":1,.*"tokens":3,' log
    grep -q '"program":"fwd","event":"totals","rows":1,"tokens":3,"seconds":' log
    while read -r line; do python3 -c 'import json, sys; json.loads(sys.argv[1])' "$line"; done <log
    expect 3 pool --log bad <log
    grep -q '"program":"pool","event":"end","status":3,"error":"standard input: ' bad
    refused 4 pool --log /nonexistent/log <emb
}
