# fwd: which model it takes, what it writes, what it refuses. The values are tests/unit/test_model_golden's.
# also under sanitizers
load common

GOLDEN=$REPO/tests/golden

setup() { sed 's/#.*//' "$REPO/tests/streams/minimal.hex" | tr -d ' \n' | tr a-f A-F | basenc --base16 -d >ids.vp; }

@test "a stream with only ids and cu goes through fwd and pool" {
    fwd -m "$GOLDEN/llama" <ids.vp | pool >emb.vp
    expect 0 peek --jsonl --columns emb emb.vp
    [ "$(wc -l <out)" -eq 2 ]
    expect 0 peek emb.vp
    grep -q '^  columns  *"emb" \["F32",\["B",64\]\]$' out
    grep -q '^  encoder .*"pooling":"weighted_mean"' out
}

@test "the header carries the model on, and \$VP_MODEL names one" {
    fwd -m "$GOLDEN/llama" <ids.vp >once.vp
    fwd <once.vp >twice.vp
    peek --diff once.vp twice.vp
    VP_MODEL="$GOLDEN/llama" fwd <ids.vp >env.vp
    peek --diff once.vp env.vp
}

@test "a header wins over \$VP_MODEL, -m over both, but not against the fingerprint" {
    fwd -m "$GOLDEN/llama" <ids.vp >once.vp
    VP_MODEL="$GOLDEN/bert" fwd <once.vp >twice.vp
    peek --diff once.vp twice.vp
    cp -r "$GOLDEN/llama" moved
    fwd -m moved <once.vp >third.vp
    peek --diff once.vp third.vp
    refuse_before_output 3 -m "$GOLDEN/mistral" <once.vp
    grep -q fingerprint err
}

# Nothing may be written before the model is known to be right.
refuse_before_output() {
    refused "$1" fwd "${@:2}"
}

@test "a model that changed behind the header is refused" {
    cp -r "$GOLDEN/llama" mine
    chmod -R u+w mine
    fwd -m mine <ids.vp >once.vp
    sed -i 's/10000.0/10001.0/' mine/config.json
    refuse_before_output 3 <once.vp
    grep -q 'changed or replaced' err
}

@test "an adapter counts once: fwd's takes the place of the stream's" {
    export VP_MODEL=$GOLDEN/llama
    cp -r "$VP_MODEL/adapter" other
    fwd -m "$GOLDEN/llama" --adapter other <ids.vp >adapted.vp
    fwd -m "$GOLDEN/llama" <ids.vp >plain.vp
    fwd --adapter other <adapted.vp >again.vp
    fwd <adapted.vp >carried.vp
    peek --jsonl --columns hidden adapted.vp >want
    for name in again carried; do peek --jsonl --columns hidden $name.vp | cmp - want; done
    run ! cmp -s <(peek --jsonl --columns hidden plain.vp) want
    fwd --adapter other --adapter other <adapted.vp | peek --jsonl --columns hidden >twice
    run ! cmp -s twice want
    fwd --adapter other --adapter other <ids.vp | peek --jsonl --columns hidden | cmp - twice
}

@test "adapters change the values, travel in the header and must fit" {
    fwd -m "$GOLDEN/llama" <ids.vp >plain.vp
    fwd -m "$GOLDEN/llama" --adapter "$GOLDEN/llama/adapter" <ids.vp >adapted.vp
    run ! peek --diff plain.vp adapted.vp --tol 0.001
    fwd <adapted.vp >again.vp
    peek --diff adapted.vp again.vp
    refuse_before_output 3 -m "$GOLDEN/bert" --adapter "$GOLDEN/llama/adapter" <ids.vp
    refuse_before_output 4 -m "$GOLDEN/llama" --adapter nothing <ids.vp
}

@test "--attention decides, else the header, else the model" {
    for how in causal bi; do fwd -m "$GOLDEN/llama" --attention $how <ids.vp >$how.vp; done
    run ! peek --diff causal.vp bi.vp --tol 0.001
    fwd -m "$GOLDEN/llama" <ids.vp >default.vp
    peek --diff causal.vp default.vp
    fwd <bi.vp >again.vp
    peek --diff bi.vp again.vp
    expect 3 fwd -m "$GOLDEN/llama" --attention segments <ids.vp
    grep -q 'needs the column seg' err
}

@test "--pool is fwd | pool, to the byte of every frame but the history" {
    for options in "auto" "mean --no-normalize" "last --dims 7" "pick"; do
        read -ra words <<<"$options"
        fwd -m "$GOLDEN/bert" --pool "${words[@]}" <ids.vp >fused.vp
        [ "${words[0]}" != auto ] || words=("${words[@]:1}")
        fwd -m "$GOLDEN/bert" <ids.vp | pool "${words[@]}" >piped.vp
        peek --diff fused.vp piped.vp
    done
    refuse_before_output 2 -m "$GOLDEN/bert" --dims 7 <ids.vp
    refuse_before_output 2 -m "$GOLDEN/bert" --pool sum <ids.vp
}

@test "the same bytes with 1 and 2 threads, any --batch-tokens, from a file, a pipe and zstd" {
    fwd -m "$GOLDEN/llama" --threads 1 <ids.vp | pool >want.vp
    fwd -m "$GOLDEN/llama" --threads 2 <ids.vp | pool >got.vp
    peek --diff want.vp got.vp
    # shellcheck disable=SC2002 # the pipe is the point
    cat ids.vp | fwd -m "$GOLDEN/llama" --batch-tokens 1 | pool >got.vp
    peek --diff want.vp got.vp
    fwd -m "$GOLDEN/llama" <ids.vp >hidden.vp
    pool <hidden.vp >got.vp
    peek --diff want.vp got.vp
    zstd -qc ids.vp | fwd -m "$GOLDEN/llama" | zstd -qc | pool >got.vp
    peek --diff want.vp got.vp
}

@test "the header is written before the first batch is awaited" {
    mkfifo in
    header=$(($(stat -c %s ids.vp) - 1))
    (head -c "$header" ids.vp && sleep 5) >in &
    fwd -m "$GOLDEN/llama" <in >slow.vp &
    for _ in $(seq 40); do
        [ ! -s slow.vp ] || break
        sleep 0.1
    done
    [ -s slow.vp ]
    kill %1 %2
}

@test "wrong usage" {
    refuse_before_output 2 <ids.vp
    refuse_before_output 2 -m "$GOLDEN/llama" extra <ids.vp
    refuse_before_output 2 -m "$GOLDEN/llama" --attention sideways <ids.vp
    refuse_before_output 2 -m "$GOLDEN/llama" --batch-tokens 0 <ids.vp
    refuse_before_output 2 -m "$GOLDEN/llama" --threads 1x <ids.vp
    refuse_before_output 2 -m "$GOLDEN/llama" --device tpu <ids.vp
    refuse_before_output 2 -m "$GOLDEN/llama" --compute i8 <ids.vp
    grep -q "compute type 'i8': the cpu backend does not have it" err
}

@test "broken input and output" {
    refuse_before_output 4 -m nothing <ids.vp
    refuse_before_output 3 -m "$GOLDEN/llama" <"$GOLDEN/llama/config.json"
    refuse_before_output 6 -m "$GOLDEN/llama" </dev/null
    head -c -1 ids.vp >cut.vp
    expect 6 fwd -m "$GOLDEN/llama" <cut.vp
    status=0
    fwd -m "$GOLDEN/llama" <ids.vp >/dev/full 2>err || status=$?
    [ "$status" -eq 4 ]
}
