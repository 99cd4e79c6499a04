# Nobody hangs: a filter whose input is silent ends when nobody reads its output any more.
# also under sanitizers
load common

GOLDEN=$REPO/tests/golden

setup() {
    sed 's/#.*//' "$REPO/tests/streams/minimal.hex" | tr -d ' \n' | tr a-f A-F | basenc --base16 -d >ids.vp
    fwd -m "$GOLDEN/bert" <ids.vp >hidden.vp
    mkfifo silent
}

teardown() { kill "$feeder" 2>/dev/null || true; }

# feed FILE: its first 70 bytes, a header of a stream but no end, then silence, through the pipe `silent`.
feed() {
    { head -c "${2:-70}" "$1" && exec sleep 60; } >silent 3>&- &
    feeder=$!
}

# run_quietly NAME PROGRAM...: its exit status goes to the file status.NAME, its errors to err.NAME.
run_quietly() {
    local name=$1 status=0
    shift
    timeout 5 "$@" 2>"err.$name" || status=$?
    echo $status >"status.$name"
}

for_a_second() { sleep 1; }

died_of_sigpipe() {
    [ "$(cat "status.$1")" = 141 ] && [ ! -s "err.$1" ] && return
    echo "$1: status $(cat "status.$1"): $(cat "err.$1")"
    return 1
}

# ends PROGRAM...: waits for `silent` to go on when the program behind it goes; it must die of SIGPIPE and say nothing.
ends() {
    run_quietly "$1" "$@" <silent | for_a_second
    kill "$feeder"
    died_of_sigpipe "$1"
}

@test "filters of streams" {
    for filter in "fwd -m $GOLDEN/bert" "pool mean" "peek --jsonl"; do
        feed hidden.vp
        ends $filter
    done
}

@test "tok and knn" {
    printf 'a text\n' >texts
    printf '{"id": 1, "text": "a text"}\n' >texts.jsonl
    mkdir model
    cp "$REPO/tests/tokenizers/words.json" model/tokenizer.json
    feed texts
    ends tok --lines -m model
    tok --lines -m model texts | fwd -m "$GOLDEN/bert" --pool mean | tee emb.vp | knn add x.idx
    feed texts.jsonl
    ends knn missing x.idx
    feed emb.vp
    ends knn search x.idx
}

@test "a whole pipeline, when its last program is killed" {
    feed ids.vp 66
    run_quietly fwd fwd -m "$GOLDEN/bert" <silent | run_quietly pool pool mean | for_a_second
    kill "$feeder"
    died_of_sigpipe fwd
    died_of_sigpipe pool
}
