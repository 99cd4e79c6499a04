# --compute bf16: where it is refused, and that what reads the stream follows. The values are tests/unit/test_ops_products'
# and test_model_training's.
# also under sanitizers
load common

GOLDEN=$REPO/tests/golden

setup() { sed 's/#.*//' "$REPO/tests/streams/minimal.hex" | tr -d ' \n' | tr a-f A-F | basenc --base16 -d >ids.vp; }

need_bf16() { grep -qw avx512_bf16 /proc/cpuinfo || skip "this processor has no instructions for bf16"; }

@test "lesser instruction sets have no bf16, and say so" {
    for VP_ISA in avx2 scalar; do
        export VP_ISA
        grep -qw avx2 /proc/cpuinfo || [ "$VP_ISA" = scalar ] || continue
        refused 2 fwd -m "$GOLDEN/llama" --compute bf16 <ids.vp
        grep -q 'compute type bf16: this processor has no instructions for it (AVX512-BF16 and VBMI)' err
        refused 2 step -m "$GOLDEN/llama" --compute bf16 --schedule constant --objective mntp --out run <ids.vp
        grep -q 'AVX512-BF16' err
    done
}

@test "vectors in bf16 are near those in f32, not equal, and of the same space" {
    need_bf16
    fwd -m "$GOLDEN/llama" <ids.vp | pool >f32.vp
    fwd -m "$GOLDEN/llama" --compute bf16 <ids.vp | pool >bf16.vp
    peek bf16.vp | grep '"compute":"bf16"'
    [ "$(peek f32.vp | grep -o '"space":"[0-9a-f]*"')" = "$(peek bf16.vp | grep -o '"space":"[0-9a-f]*"')" ]
    run ! peek --diff f32.vp bf16.vp
    peek --diff f32.vp bf16.vp --tol 0.02
    for options in '--threads 1' '--threads 2' '--batch-tokens 1'; do
        # shellcheck disable=SC2086
        fwd -m "$GOLDEN/llama" --compute bf16 $options <ids.vp | pool >again.vp
        peek --diff bf16.vp again.vp
    done
}

steps() {
    head -n 6 "$REPO/examples/corpus.jsonl" | tok --pack 24 --batch 2 --steps 2 | mask mntp --rate 0.3
}

@test "step refuses another type than the stream's" {
    fwd -m "$GOLDEN/llama" --compute f32 <ids.vp >hidden.vp
    refused 2 step --compute bf16 --schedule constant --objective mntp --out run <hidden.vp
    grep -q "compute type 'bf16', but the stream was made with 'f32'" err
}

@test "training in bf16: piped and fused are the same bytes" {
    need_bf16
    need_models
    export VP_MODEL=$SMOLLM2
    lora='r=2,alpha=4'
    steps >masked.vp
    step --objective mntp --compute bf16 --lora $lora --lr 1e-3 --attention bi --out fused <masked.vp
    fwd --follow piped --compute bf16 --attention bi <masked.vp | pool pick | loss mntp |
        step --lora $lora --lr 1e-3 --out piped
    cmp fused/adapter_model.safetensors piped/adapter_model.safetensors
    grep -q '"compute": *"bf16"' piped/train.json
}
