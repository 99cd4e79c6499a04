# Memory of a computation is planned: --batch-tokens auto takes what fits, and too little is told in numbers with the
# option that helps. On the CPU, and on the host's GPU of kernels/cuda/shim, which has $VP_SHIM_MEMORY bytes.
load common

SHIM=$VP_BIN/../shim/libvecpipe-cuda.so
GOLDEN=$REPO/tests/golden

setup() {
    export VP_CUDA_LIBRARY=$SHIM VP_DEVICE=cpu
    mkdir tiny
    cp "$GOLDEN/llama/model.safetensors" "$REPO/tests/pipelines/tokenizer.json" tiny/
    sed 's/"max_position_embeddings": [0-9]*/"max_position_embeddings": 2048/' "$GOLDEN/llama/config.json" >tiny/config.json
    export VP_MODEL=$PWD/tiny
    cut -c1-60 >texts <<<"$(sed -n 's/.*"text": *"\([^"]*\)".*/\1/p' "$REPO/examples/corpus.jsonl")"
    for _ in 1 2 3 4; do cat texts; done | head -n 12 | tok --lines >ids.vp
}

need_shim() { [ -e "$SHIM" ] || skip "no $SHIM: make shim needs a C++ compiler"; }

# tokens_at_a_time: what -v says that fwd chose.
tokens_at_a_time() { sed -n 's/^fwd: \([0-9]*\) tokens at a time in [0-9.]* MB beside the weights, [0-9.]* GFLOP a token$/\1/p' err; }

@test "--batch-tokens is auto or a number, auto if not given, and no byte depends on it" {
    for bad in 0 -1 x autos 1e3 17M; do refused 2 fwd --batch-tokens $bad <ids.vp; done
    fwd --help | grep -A 2 -e '--batch-tokens auto|N' | grep -q '\[auto\]'
    step --help | grep -A 2 -e '--batch-tokens auto|N' | grep -q '\[auto\]'
    fwd --batch-tokens 7 <ids.vp >seven.vp
    expect 0 fwd -v <ids.vp
    [ "$(tokens_at_a_time)" = 2048 ]
    mv out auto.vp
    fwd --batch-tokens auto <ids.vp | peek --diff auto.vp -
    peek --diff auto.vp seven.vp
}

@test "a training's bytes do not depend on --batch-tokens either" {
    head -n 6 texts | tok --lines --pack 24 --batch 3 --steps 2 | mask mntp --rate 0.3 >masked.vp
    for n in auto 1 64; do
        step --objective mntp --lora r=2,alpha=4 --lr 1e-3 --batch-tokens $n --out run$n <masked.vp
        cmp runauto/adapter_model.safetensors run$n/adapter_model.safetensors
    done
}

@test "on a device auto is what fits, and gives the same bytes" {
    need_shim
    export VP_DEVICE=cuda
    expect 0 fwd -v --pool mean <ids.vp
    [ "$(tokens_at_a_time)" = 32768 ]
    mv out all.vp
    VP_SHIM_MEMORY=9000000 expect 0 fwd -v --pool mean <ids.vp
    [ "$(tokens_at_a_time)" -lt 4096 ]
    peek --diff all.vp out
}

@test "too little memory for a micro-batch names the numbers and --batch-tokens, and a smaller one goes through" {
    need_shim
    export VP_DEVICE=cuda VP_SHIM_MEMORY=2500000
    expect 5 fwd --batch-tokens 2048 <ids.vp
    grep -Eqx 'fwd: out of memory: needs [0-9.]+ [kM]B for [0-9]+ tokens at a time, [0-9.]+ [kM]B free: lower --batch-tokens' err
    expect 0 fwd --batch-tokens 16 <ids.vp
    mv out few.vp
    VP_SHIM_MEMORY=100000000 fwd --batch-tokens 2048 <ids.vp | peek --diff few.vp -
    for _ in {1..30}; do tr "\n" " " <texts; done | tok --lines --max-len 1000 >long.vp
    VP_SHIM_MEMORY=2500000 expect 5 fwd <long.vp
    grep -Eqx 'fwd: out of memory: .* free, which are one row: cut it, tok --max-len' err
}

@test "too little memory for a training's micro-batch names --recompute, too" {
    need_shim
    export VP_DEVICE=cuda
    for _ in 1 2 3; do cat texts; done | tok --lines --pack 64 --batch 6 --steps 1 | mask mntp --rate 0.3 >masked.vp
    VP_SHIM_MEMORY=4500000 expect 5 step --objective mntp --lora r=2,alpha=4 --batch-tokens 1000 --out run <masked.vp
    cat err
    grep -Eqx 'step: out of memory: needs .* for [0-9]+ tokens at a time, .* free: lower --batch-tokens, or --recompute layer' err
    VP_SHIM_MEMORY=4500000 expect 5 step --objective mntp --lora r=2,alpha=4 --batch-tokens 1000 --recompute layer --out run <masked.vp
    grep -q 'lower --batch-tokens$' err
}

@test "weights that do not fit are told as one number" {
    need_shim
    VP_DEVICE=cuda VP_SHIM_MEMORY=200000 expect 5 fwd <ids.vp
    grep -Eqx 'fwd: out of memory: the weights need [0-9.]+ [kM]B as f32, [0-9.]+ kB free: --compute bf16 needs half' err
    VP_DEVICE=cuda VP_SHIM_MEMORY=100000 expect 5 fwd --compute bf16 <ids.vp
    grep -Eqx 'fwd: out of memory: the weights need [0-9.]+ [kM]B as bf16, [0-9.]+ kB free' err
}

@test "with few addresses nothing is planned, and everything computed" {
    fwd <ids.vp >want.vp
    (ulimit -v 200000 && fwd --threads 1 <ids.vp) >got.vp
    peek --diff want.vp got.vp
}
