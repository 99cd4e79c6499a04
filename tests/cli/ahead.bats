# Frames on their way ahead (lib/model/ahead.h), on the host's GPU of kernels/cuda/shim: what is written, and what is told
# of an error, is the same as one frame after the other; no result waits for more input.
load common

SHIM=$VP_BIN/../shim/libvecpipe-cuda.so
GOLDEN=$REPO/tests/golden

setup() {
    [ -e "$SHIM" ] || skip "no $SHIM: make shim needs a C++ compiler"
    export VP_CUDA_LIBRARY=$SHIM VP_DEVICE=cuda
    mkdir tiny
    cp "$GOLDEN/llama/model.safetensors" "$GOLDEN/llama/config.json" "$REPO/tests/pipelines/tokenizer.json" tiny/
    export VP_MODEL=$PWD/tiny
    cut -c1-50 >texts <<<"$(sed -n 's/.*"text": *"\([^"]*\)".*/\1/p' "$REPO/examples/corpus.jsonl")"
    head -n 5 texts | tok --lines --batch-tokens 20 >ids.vp
}

# in_turn ARGS...: fwd with memory for one micro-batch of that many tokens, not for two.
in_turn() { VP_SHIM_MEMORY=30000000 fwd --batch-tokens 32768 "$@"; }

# both STATUS ARGS...: fwd on ids.vp in both ways ends with that status, the same message, and what it wrote but for the
# header, whose history names the options.
both() {
    local wanted=$1 status=0
    shift
    in_turn "$@" <ids.vp >turn.vp 2>turn.err || status=$?
    [ "$status" -eq "$wanted" ]
    expect "$wanted" fwd --batch-tokens 16384 "$@" <ids.vp
    diff turn.err err
    cmp <(sed 's/--batch-tokens 32768/--batch-tokens 16384/' turn.vp | tail -c +1000) <(tail -c +1000 out)
    [ "$(wc -c <turn.vp)" -eq "$(wc -c <out)" ]
}

@test "hidden states and embeddings are the same bytes, in the same order" {
    both 0
    both 0 --compute bf16
    both 0 --pool mean
    both 0 --pool weighted_mean --dims 16 --no-normalize
    both 0 --pool pick
}

@test "an error in a frame is told as it is in turn, after what was complete before it was written" {
    { head -n 3 texts; for _ in {1..20}; do cat texts; done | tr '\n' ' '; echo; head -n 4 texts; } |
        tok --lines --batch-tokens 20 --max-len 300 --window 1 -q >ids.vp
    both 3
    grep -Eq 'frame 4 \(byte [0-9]+\): row 3 has 300 tokens, the model has 256 positions' err
    [ "$(peek out 2>&1 | grep -c hidden)" -ge 1 ]
}

@test "a stream that is cut off or damaged leaves what was complete" {
    cp ids.vp whole.vp
    head -c $(($(wc -c <whole.vp) - 300)) whole.vp >ids.vp
    both 6
    printf x | dd of=whole.vp bs=1 seek=$(($(wc -c <whole.vp) - 500)) conv=notrunc status=none
    cp whole.vp ids.vp
    both 3
    [ "$(wc -c <out)" -gt 10000 ]
}

@test "a result does not wait for the next frame" {
    { head -n 1 texts; for _ in {1..300}; do [ ! -e seen ] || break; sleep 0.1; done; [ -e seen ]; sed -n 2p texts; } |
        tok --lines --window 1 --batch-tokens 1 | fwd --pool mean | peek --jsonl --columns id - |
        { read -r _; touch seen; cat; } >rest
    [ "$(wc -l <rest)" -ge 1 ]
}

@test "a reader that goes away ends it" {
    local status=0
    (set +o pipefail; fwd <ids.vp 2>err; echo $? >status) | head -c 100 >/dev/null || status=$?
    [ "$(cat status)" -eq 141 ]
}

@test "killed, what it wrote is the beginning of what it would have written" {
    for _ in 1 2 3 4; do cat texts; done | tok --lines --batch-tokens 20 >ids.vp
    fwd <ids.vp >whole.vp
    : >part.vp # the shell behind & may be late to make it
    fwd <ids.vp >part.vp &
    local fwd=$! status=0
    for _ in {1..300}; do [ "$(wc -c <part.vp)" -lt 8000 ] || break; sleep 0.02; done
    kill -TERM $fwd
    wait $fwd || status=$?
    [ "$status" -eq 143 ] || [ "$status" -eq 0 ] # it may have been done
    [ "$(wc -c <part.vp)" -ge 8000 ]
    cmp -n "$(wc -c <part.vp)" whole.vp part.vp
}
