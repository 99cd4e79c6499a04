# The files of examples/: the cron job as cron would run it, a question, the units.
load common

setup() {
    need_models
    cp "$REPO/examples/corpus.jsonl" corpus.jsonl
    export CORPUS=$PWD/corpus.jsonl INDEX=$PWD/corpus.idx VP_MODEL=$MINILM
}

job() { "$REPO/examples/cron-embed.sh"; }
rows() { knn export "$INDEX" --jsonl | grep -vc '"_vp"'; }
silent() {
    expect 0 "$@" || return 1
    [ ! -s out ] && [ ! -s err ]
}

@test "the cron job embeds the corpus, is silent, and a second run finds nothing to do" {
    silent job
    [ "$(rows)" -eq 60 ]
    knn export "$INDEX" --jsonl >before
    unset VP_MODEL
    silent job
    knn export "$INDEX" --jsonl >after
    cmp before after
}

@test "the cron job keeps the texts, for BM25, and an index with texts takes no rows without" {
    silent job
    [ "$(knn stats "$INDEX" --json | sed 's/.*"texts":\([0-9]*\).*/\1/')" -eq 60 ]
    echo '{"id":"new","text":"a kite needs wind"}' >>corpus.jsonl
    knn missing "$INDEX" <corpus.jsonl | tok -q | fwd -q | pool >bare.vp
    expect 3 knn add "$INDEX" bare.vp
    grep -q "frame.*no column text, but the index '$INDEX' holds texts: say --text" err
    silent job
    echo 'a kite' | tok -q --lines --query --text | fwd -q | pool | knn search "$INDEX" --bm25 -k 1 | grep -q '"id":"new"'
}

@test "the cron job embeds only what is new or changed" {
    silent job
    sed -i 's/Flour and water/Rye and water/' corpus.jsonl
    echo '{"id":"new","text":"a kite needs wind"}' >>corpus.jsonl
    knn missing "$INDEX" <corpus.jsonl | grep -v '"_vp"' >todo
    [ "$(wc -l <todo)" -eq 2 ]
    silent job
    [ "$(rows)" -eq 61 ]
    knn missing "$INDEX" <corpus.jsonl | grep -v '"_vp"' >todo || true
    [ ! -s todo ]
}

@test "two cron jobs at once: both are silent, the index is whole" {
    job >out1 2>&1 &
    first=$!
    job >out2 2>&1 &
    second=$!
    wait $first
    wait $second
    [ ! -s out1 ] && [ ! -s out2 ]
    [ "$(rows)" -eq 60 ]
}

@test "a cron job that is killed is finished by the next one" {
    for delay in 0.05 0.2 0.4; do
        setsid "$REPO/examples/cron-embed.sh" >/dev/null 2>&1 &
        pid=$!
        sleep $delay
        kill -KILL -- -$pid 2>/dev/null || true
        wait $pid || true
    done
    silent job
    [ "$(rows)" -eq 60 ]
    expect 0 knn verify "$INDEX"
}

@test "a failing cron job says so and passes the status on" {
    export CORPUS=$PWD/absent.jsonl
    status=0
    job >out 2>err || status=$?
    [ $status -ne 0 ]
    [ -s err ]
    [ ! -s out ]
    printf '{"id":"broken"\n' >broken.jsonl
    export CORPUS=$PWD/broken.jsonl
    expect 3 job
    grep -q '^knn: .*:1' err
}

@test "the example corpus answers the example questions" {
    silent job
    for pair in bicycle-flat:puncture tides:'sea rise' budget:'save money' sleep:'fall asleep' git-undo:'version control'; do
        question=$(grep "${pair#*:}" "$REPO/examples/questions.txt")
        expect 0 "$REPO/examples/ask.sh" "$INDEX" "$question" -k 3
        grep -q "${pair%%:*}" out
    done
}

@test "ask.sh without a question: status 2" {
    expect 2 "$REPO/examples/ask.sh" "$INDEX"
}

@test "the lines of the crontab run as cron runs them" {
    line=$(grep cron-embed "$REPO/examples/crontab")
    [[ $line =~ ^\*/10\ \*\ \*\ \*\ \*\ /usr/local/share/vecpipe/examples/cron-embed.sh$ ]]
    [ "$(grep -c '^[A-Z_]*=' "$REPO/examples/crontab")" -eq 3 ]
    expect 0 env -i HOME="$PWD" PATH="$VP_BIN:/usr/bin:/bin" CORPUS="$CORPUS" INDEX="$INDEX" VP_MODEL="$VP_MODEL" \
        /bin/sh -c "$REPO/examples/cron-embed.sh"
    [ ! -s out ] && [ ! -s err ]
    [ "$(rows)" -eq 60 ]
}

@test "the systemd units are well-formed" {
    command -v systemd-analyze >/dev/null || skip "no systemd-analyze"
    sed "s|/usr/local/share/vecpipe|$REPO|" "$REPO/examples/vecpipe-embed.service" >vecpipe-embed.service
    cp "$REPO/examples/vecpipe-embed.timer" .
    run systemd-analyze verify --man=no ./vecpipe-embed.timer ./vecpipe-embed.service
    [ "$status" -eq 0 ]
    [[ $output != *vecpipe-embed* ]]
}
