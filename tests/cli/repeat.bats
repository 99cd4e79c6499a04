# Small passes in one launch each (vp_backend.repeat), on the host's GPU of kernels/cuda/shim: what programs write does not
# tell them from others, -v does. VP_SHIM_GRAPHS=0: a GPU that records nothing.
load common

SHIM=$VP_BIN/../shim/libvecpipe-cuda.so
GOLDEN=$REPO/tests/golden

setup() {
    [ -e "$SHIM" ] || skip "no $SHIM: make shim needs a C++ compiler"
    export VP_CUDA_LIBRARY=$SHIM VP_DEVICE=cuda
    mkdir tiny
    cp "$GOLDEN/llama/model.safetensors" "$GOLDEN/llama/config.json" "$REPO/tests/pipelines/tokenizer.json" tiny/
    export VP_MODEL=$PWD/tiny
    cut -c1-40 >texts <<<"$(sed -n 's/.*"text": *"\([^"]*\)".*/\1/p' "$REPO/examples/corpus.jsonl" | head -n 14)"
    tok --lines --batch 1 texts >single.vp
    tok --lines texts >whole.vp
}

# repeated: of how many passes that is told on standard error, which is `err`.
repeated() { sed -n 's/^[a-z]*: \([0-9]*\) of \([0-9]*\) passes were those of before, in one launch each$/\1 \2/p' err; }

# column COLUMN FILE: what a stream's rows have in it, without their numbers.
column() { peek --jsonl --columns "$1" "$2" | grep -o "\"$1\":.*"; }

@test "frame after frame: the bytes of one frame with all, of one without recording, and of frames in turn" {
    for options in '--pool mean' '--compute bf16 --pool last' '--compute bf16' '--emit hidden'; do
        c=emb
        [[ $options == *--pool* ]] || c=hidden
        # shellcheck disable=SC2086
        expect 0 fwd -v $options <single.vp
        read -r some all <<<"$(repeated)"
        [ "$all" -eq 14 ]
        [ "$some" -ge 4 ]
        column $c out >again
        # shellcheck disable=SC2086
        fwd $options <whole.vp >out
        column $c out | cmp - again
        # shellcheck disable=SC2086
        VP_SHIM_GRAPHS=0 expect 0 fwd -v $options <single.vp
        column $c out | cmp - again
        grep -q '^fwd: 0 of 14 passes were .* each; some could not be recorded, and were launched as ever$' err
        # shellcheck disable=SC2086
        VP_SHIM_MEMORY=30000000 expect 0 fwd -v $options --batch-tokens 32768 <single.vp # no memory for two frames
        read -r alone all <<<"$(repeated)"
        [ "$alone" -gt "$some" ]
        column $c out | cmp - again
    done
}

@test "micro-batches of a frame; not where keys and values are written; nor on the CPU" {
    expect 0 fwd -v --pool mean --batch-tokens 1 <whole.vp
    [ "$(repeated | cut -d' ' -f2)" -eq 14 ]
    fwd --pool mean <whole.vp | peek --diff - out
    expect 0 fwd -v --emit hidden,kv <single.vp
    [ ! "$(repeated)" ]
    expect 0 fwd -v --device cpu <single.vp
    [ ! "$(repeated)" ]
}

@test "adapters; a run that is followed changes its weights, and nothing is repeated" {
    expect 0 fwd -v --adapter "$GOLDEN/llama/adapter" <single.vp
    [ "$(repeated | cut -d' ' -f1)" -ge 4 ]
    column hidden out >again
    fwd --adapter "$GOLDEN/llama/adapter" --emit hidden,kv <whole.vp >out
    column hidden out | cmp - again
    for _ in 1 2 3 4 5; do head -n 2 texts; done | tok --lines --pack 24 --batch 1 --steps 5 | mask mntp --rate 0.3 >masked.vp
    train='--lora r=2,alpha=4 --lr 1e-2 -q'
    # shellcheck disable=SC2086
    step --objective mntp $train --out fused <masked.vp
    # shellcheck disable=SC2086
    fwd -v --follow piped <masked.vp 2>err | pool pick | loss mntp | step $train --out piped
    cmp fused/adapter_model.safetensors piped/adapter_model.safetensors
    grep -q 'tokens at a time' err
    [ ! "$(repeated)" ]
}

@test "generation: step after step in one launch, the tokens of the CPU and of a GPU that records nothing" {
    head -n 2 texts >prompts
    for compute in f32 i8; do
        expect 0 gen -v --lines --greedy --max-tokens 12 --compute $compute --batch 2 prompts
        [ "$(repeated | cut -d' ' -f1)" -ge 6 ] # one prompt ends early
        mv out again
        VP_SHIM_GRAPHS=0 gen --lines --greedy --max-tokens 12 --compute $compute --batch 2 prompts | cmp - again
        gen --device cpu --lines --greedy --max-tokens 12 --compute $compute prompts | cmp - again
    done
}
