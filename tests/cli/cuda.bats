# Programs on a device whose memory is not the host's: the CUDA backend on the host's GPU of kernels/cuda/shim, which stops
# at memory of the device that the host touches, and the other way round. Its operations have tests of their own.
load common

SHIM=$VP_BIN/../shim/libvecpipe-cuda.so
GOLDEN=$REPO/tests/golden

setup() {
    export VP_CUDA_LIBRARY=$SHIM VP_DEVICE=
    mkdir tiny
    cp "$GOLDEN/llama/model.safetensors" "$REPO/tests/pipelines/tokenizer.json" tiny/
    cp "$GOLDEN/llama/config.json" tiny/
    export VP_MODEL=$PWD/tiny
    cut -c1-160 >texts <<<"$(sed -n 's/.*"text": *"\([^"]*\)".*/\1/p' "$REPO/examples/corpus.jsonl")"
    head -n 4 texts | tok --lines >ids.vp
}

need_shim() { [ -e "$SHIM" ] || skip "no $SHIM: make shim needs a C++ compiler"; }

# largest COLUMN A B: the largest difference of a column of two streams.
largest() { peek --diff "$2" "$3" --tol 1000 | sed -n "s/^  $1 .*largest difference \([^ ]*\).*/\1/p"; }

# within BOUND X
within() { awk -v x="$2" -v bound="$1" 'BEGIN { exit !(x != "" && x + 0 <= bound) }' || { echo "$2 > $1"; return 1; }; }

@test "--device takes auto, cpu and cuda:N, \$VP_DEVICE names one, and what is not there is told in one line" {
    for bad in gpu cuda: cuda:x cuda:-1 cuda0; do
        refused 2 fwd --device "$bad" <ids.vp
        grep -q "device '$bad' is not one of auto|cpu|cuda\[:N\]" err
    done
    VP_DEVICE=gpu refused 2 fwd <ids.vp
    VP_CUDA_LIBRARY=$PWD/none.so refused 5 fwd --device cuda <ids.vp
    grep -q 'device cuda: .*none\.so' err
    VP_CUDA_LIBRARY=$PWD/none.so expect 0 fwd -v --device auto <ids.vp
    grep -q 'computes on cpu' err
    echo 'no library' >broken.so
    VP_CUDA_LIBRARY=$PWD/broken.so VP_DEVICE=cuda refused 5 fwd <ids.vp
    # shellcheck disable=SC2086
    echo 'void *vp_backend_cuda(unsigned long s, int *n, void *e) { *n = 1; return s && e ? 0 : 0; }' |
        ${CC:-cc} -shared -fPIC -o other.so -x c -
    VP_CUDA_LIBRARY=$PWD/other.so refused 5 fwd --device cuda <ids.vp
    grep -q 'other\.so: is of another version of vecpipe' err
    need_shim
    VP_CUDA_GROUPS_FROM=5x refused 2 fwd --device cuda <ids.vp
    grep -q "VP_CUDA_GROUPS_FROM: '5x' is no number of tokens" err
    refused 5 fwd --device cuda:1 <ids.vp
    grep -q 'device cuda:1: there is 1, counted from 0' err
    expect 0 fwd -v <ids.vp
    grep -q 'computes on cuda shim' err
    VP_DEVICE=cpu expect 0 fwd -v <ids.vp
    grep -q 'computes on cpu' err
}

@test "vectors on the device are the CPU's within 1e-5 in f32 and 0.06 in bf16, of one space" {
    need_shim
    export VP_CUDA_GROUPS_FROM=30 # some texts are longer, some are not
    for compute in f32 bf16; do
        fwd --device cpu <ids.vp >cpu.vp
        fwd --device cuda --compute $compute <ids.vp >cuda.vp
        within "$([ $compute = f32 ] && echo 1e-5 || echo 0.06)" "$(largest hidden cpu.vp cuda.vp)"
        fwd --device cuda --compute $compute --pool mean <ids.vp >fused.vp
        pool mean <cuda.vp >piped.vp
        within 1e-6 "$(largest emb piped.vp fused.vp)"
        peek fused.vp | grep "\"compute\":\"$compute\""
        [ "$(peek fused.vp | grep -o '"space":"[0-9a-f]*"')" = "$(pool mean <cpu.vp | peek - | grep -o '"space":"[0-9a-f]*"')" ]
    done
}

@test "a text alone, in a batch and in any micro-batch is the same bytes on the device" {
    need_shim
    export VP_CUDA_GROUPS_FROM=30
    for compute in f32 bf16 fp8; do
        fwd --device cuda --compute $compute --pool mean <ids.vp >whole.vp
        fwd --device cuda --compute $compute --pool mean --batch-tokens 1 <ids.vp >parts.vp
        peek --diff whole.vp parts.vp
        sed -n 3p texts | tok --lines | fwd --device cuda --compute $compute --pool mean | peek --jsonl --columns emb - >alone
        peek --jsonl --columns emb whole.vp | sed -n 3p >in_batch
        cmp <(grep -o '"emb":.*' alone) <(grep -o '"emb":.*' in_batch)
    done
}

@test "fp8: near bf16 and of its space on sm_90, refused in one line on other devices, with adapters and for training" {
    need_shim
    export VP_DEVICE=cuda
    for compute in bf16 fp8; do fwd --compute $compute --pool mean <ids.vp >$compute.vp; done
    [ "$(peek bf16.vp | grep -o '"space":"[0-9a-f]*"')" = "$(peek fp8.vp | grep -o '"space":"[0-9a-f]*"')" ]
    peek fp8.vp | grep '"compute":"fp8"'
    run ! peek --diff bf16.vp fp8.vp --tol 0.001
    within 0.06 "$(largest emb bf16.vp fp8.vp)"
    VP_DEVICE=cpu refused 2 fwd --compute fp8 <ids.vp
    grep -q 'compute type fp8: the device (cpu [a-z0-9]*) has no such products, GPUs of sm_90 have' err
    VP_SHIM_MAJOR=8 refused 2 fwd --compute fp8 <ids.vp
    grep -q 'compute type fp8: the device (cuda shim) has no such products' err
    refused 2 fwd -m "$GOLDEN/llama" --adapter "$GOLDEN/llama/adapter" --compute fp8 <ids.vp
    grep -q 'compute type fp8 takes no adapters: merge them' err
    head -n 4 texts | tok --lines --pack 24 --batch 2 --steps 2 | mask mntp --rate 0.3 >masked.vp
    refused 2 step --objective mntp --compute fp8 --lora r=2 --lr 1e-3 --out run <masked.vp
    grep -q 'compute type fp8 is for embedding' err
    [ ! -e run ]
    refused 2 fwd --follow run --compute fp8 <masked.vp
    grep -q 'follow: compute type fp8 is for embedding' err
}

@test "training on the device: fused and piped are the same bytes, and the loss is the CPU's" {
    need_shim
    head -n 4 texts | tok --lines --pack 24 --batch 2 --steps 2 | mask mntp --rate 0.3 >masked.vp
    train='--lora r=2,alpha=4 --lr 1e-3'
    export VP_DEVICE=cuda
    # shellcheck disable=SC2086
    step -v --objective mntp --attention bi $train --log fused.log --out fused <masked.vp 2>err
    grep -q '^step: computes on cuda shim$' err
    grep -Eq '^step: 32768 tokens at a time in [0-9.]+ MB beside the weights, [0-9.e-]+ GFLOP a token$' err || { cat err; false; }
    # shellcheck disable=SC2086
    fwd --follow piped --attention bi <masked.vp | pool -v pick 2>pool.err | loss mntp | step $train --out piped
    grep -q '^pool: computes on cpu' pool.err
    cmp fused/adapter_model.safetensors piped/adapter_model.safetensors
    # shellcheck disable=SC2086
    step --device cpu --objective mntp --attention bi $train --log cpu.log --out cpu <masked.vp
    paste <(grep -o '"loss":[0-9.]*' fused.log) <(grep -o '"loss":[0-9.]*' cpu.log) | tr -c '0-9.\n' ' ' |
        awk '{ n++; d = $1 - $2; if (d * d > 1e-8 * $2 * $2) bad++ } END { exit !(n == 2 && !bad) }'
}

@test "generation on the device gives the CPU's tokens" {
    need_shim
    head -n 2 texts | cut -c1-40 >prompts
    for compute in f32 i8; do
        gen --lines --greedy --max-tokens 4 --compute $compute --device cpu prompts >cpu.txt
        gen --lines --greedy --max-tokens 4 --compute $compute --device cuda --batch 2 prompts >cuda.txt
        cmp cpu.txt cuda.txt
    done
}

@test "tf32: products near those of f32, a row's bytes its own; training piped and fused; refused on the CPU" {
    need_shim
    head -n 6 texts | tok --lines >ids.vp
    fwd --device cuda <ids.vp >f32.vp
    fwd --device cuda --compute tf32 <ids.vp >tf32.vp
    within 5e-3 "$(largest hidden f32.vp tf32.vp)"
    run ! peek --diff f32.vp tf32.vp --tol 1e-6
    peek tf32.vp | grep -q '"compute":"tf32"'
    fwd --device cuda --compute tf32 --batch-tokens 1 <ids.vp | peek --jsonl --columns hidden | cmp - <(peek --jsonl --columns hidden tf32.vp)
    refused 2 fwd --device cpu --compute tf32 <ids.vp
    grep -q 'compute type tf32: the device (cpu .*) has no such products, GPUs have' err
    head -n 4 texts | tok --lines --pack 24 --batch 2 --steps 2 | mask mntp --rate 0.3 >masked.vp
    train='--lr 1e-3 --lora r=2,alpha=4 -q'
    # shellcheck disable=SC2086
    step --device cuda --compute tf32 --objective mntp $train --out fused <masked.vp
    # shellcheck disable=SC2086
    VP_DEVICE=cuda fwd --follow piped --compute tf32 <masked.vp | pool pick | VP_DEVICE=cuda loss mntp |
        VP_DEVICE=cuda step $train --out piped
    cmp fused/adapter_model.safetensors piped/adapter_model.safetensors
    grep -q '"compute": *"tf32"' fused/train.json
}

@test "a mixture of experts on the device: the CPU's vectors, tokens and loss; piped and cut training are the same bytes" {
    need_shim
    cp "$GOLDEN"/mixtral/{config.json,model.safetensors} tiny/
    echo '{"bos_token": "<s>", "eos_token": "</s>"}' >tiny/tokenizer_config.json
    head -n 4 texts | tok --lines >ids.vp
    fwd --device cpu <ids.vp >cpu.vp
    fwd --device cuda <ids.vp >cuda.vp
    within 1e-5 "$(largest hidden cpu.vp cuda.vp)"
    fwd --device cuda --compute bf16 --pool mean <ids.vp >whole.vp
    fwd --device cuda --compute bf16 --pool mean --batch-tokens 1 <ids.vp >parts.vp
    peek --diff whole.vp parts.vp
    head -n 2 texts | cut -c1-40 >prompts
    for compute in f32 i8; do
        gen --lines --greedy --max-tokens 3 --compute $compute --device cpu prompts >cpu.txt
        gen --lines --greedy --max-tokens 3 --compute $compute --device cuda --batch 2 prompts >cuda.txt
        cmp cpu.txt cuda.txt
    done
    for i in 1 2; do echo "{\"messages\":[{\"role\":\"user\",\"content\":\"Say $i \"},{\"role\":\"assistant\",\"content\":\" $i it is\"}]}"; done |
        tok --chat grit --batch 1 | mask generate >steps.vp
    train='--schedule constant --lr 1e-3 --lora r=2,alpha=4 -q'
    # shellcheck disable=SC2086
    for device in cpu cuda; do step --device $device --objective ntp --pool pick $train --log $device.log --out $device <steps.vp; done
    # shellcheck disable=SC2086
    VP_DEVICE=cuda fwd --follow piped <steps.vp | pool pick | VP_DEVICE=cuda loss ntp |
        VP_DEVICE=cuda step $train --log piped.log --recompute layer --batch-tokens 1 --out piped
    cmp cuda/adapter_model.safetensors piped/adapter_model.safetensors
    losses() { grep -o '"loss":[0-9.]*' "$1"; }
    diff <(losses cuda.log) <(losses piped.log)
    paste <(losses cpu.log) <(losses cuda.log) | tr -c '0-9.\n' ' ' |
        awk '{ n++; d = $1 - $2; if (d * d > 1e-8 * $2 * $2) bad++ } END { exit !(n == 2 && !bad) }'
}

@test "a tied output head, which is the table on the device: generation and training are the CPU's" {
    need_shim
    cp "$GOLDEN/llama-gqa-tied/model.safetensors" "$GOLDEN/llama-gqa-tied/config.json" tiny/
    head -n 2 texts | cut -c1-40 >prompts
    gen --lines --greedy --max-tokens 4 --device cpu prompts >cpu.txt
    gen --lines --greedy --max-tokens 4 --device cuda prompts | cmp cpu.txt -
    head -n 4 texts | tok --lines --pack 24 --batch 2 --steps 2 | mask mntp --rate 0.3 >masked.vp
    for device in cpu cuda; do
        step --device $device --objective mntp --full --lr 1e-3 --log $device.log --out $device <masked.vp
    done
    paste <(grep -o '"loss":[0-9.]*' cuda.log) <(grep -o '"loss":[0-9.]*' cpu.log) | tr -c '0-9.\n' ' ' |
        awk '{ n++; d = $1 - $2; if (d * d > 1e-8 * $2 * $2) bad++ } END { exit !(n == 2 && !bad) }'
}

@test "exact search on the device finds the CPU's hits" {
    need_shim
    tok --lines <texts | fwd --device cpu | pool | knn add x.idx
    head -n 3 texts | tok --lines | fwd --device cpu | pool >queries.vp
    knn search --device cpu -k 3 x.idx queries.vp | sed 's/"score":[^,}]*//' >cpu.jsonl
    knn search -v --device cuda -k 3 x.idx queries.vp 2>err | sed 's/"score":[^,}]*//' >cuda.jsonl
    cmp cpu.jsonl cuda.jsonl
    grep -q '^knn: searched on cuda shim$' err || { cat err; false; }
}

# The shim has 16 MiB and a little more of pinned memory, the former for weights, and results to other memory stop it.
@test "results come to pinned memory, of which there is little however many frames there are" {
    need_shim
    for _ in 1 2 3; do cut -c1-40 texts; done | tok --lines --batch-tokens 300 >frames.vp
    peek frames.vp | grep -Eqx '  batches +1[0-9]'
    export VP_DEVICE=cuda
    for options in '' '--pool mean' '--emit hidden,kv'; do
        # shellcheck disable=SC2086
        fwd $options <frames.vp >want.vp
        # shellcheck disable=SC2086
        VP_SHIM_PINNED=17600000 fwd $options <frames.vp | peek --diff want.vp -
    done
    VP_SHIM_PINNED=16800000 expect 5 fwd <frames.vp
    grep -qx 'fwd: out of memory: hidden states needs [0-9]* bytes' err
}

@test "those of training, too, piped and fused" {
    need_shim
    head -n 4 texts | tok --lines --pack 24 --batch 2 --steps 2 | mask mntp --rate 0.3 >tokens.vp
    head -n 6 texts | tok --lines --batch 3 --steps 2 | mask simcse >rows.vp
    export VP_DEVICE=cuda VP_SHIM_PINNED=18000000
    train='--lora r=2,alpha=4 --lr 1e-3 -q'
    # shellcheck disable=SC2086
    {
        step --objective mntp --pool pick $train --out fused <tokens.vp
        fwd --follow piped <tokens.vp | pool pick | loss mntp | step $train --out piped
        cmp fused/adapter_model.safetensors piped/adapter_model.safetensors
        step --objective infonce --pool latent --latent latents=4,heads=2,width=8,inner=16 $train --out latent <rows.vp
    }
    for result in fused piped latent; do
        [ -e $result/adapter_model.safetensors ]
    done
}

@test "-v names the shapes that ran by our own kernels as the library was not certified for them" {
    need_shim
    why='no algorithm of cuBLASLt gives a row the same bytes in every batch'
    export VP_DEVICE=cuda
    expect 0 fwd -v <ids.vp
    run ! grep 'own kernels' err
    export VP_SHIM_UNCERTIFIED='192x64 320x64'
    expect 0 fwd <ids.vp
    [ ! -s err ]
    expect 0 fwd -v --compute bf16 <ids.vp # the head, 320 x 64, does not run
    [ "$(grep 'own kernels' err)" = "fwd: products of 192 x 64 in bf16 by our own kernels: $why" ]
    merge -m tiny --extra-tokens 3 --dtype f32 --out grown
    head -n 2 texts | tok -m grown --lines --pack 24 --batch 2 --steps 1 | mask mntp --rate 0.3 >masked.vp
    expect 0 step -m grown -v --objective mntp --lora r=2 --lr 1e-3 --out run <masked.vp
    diff <(grep 'own kernels' err) - <<END
step: products of 323 x 64 in f32 by our own kernels: cuBLASLt takes multiples of 8
step: products of 64 x 323 in f32, backward, by our own kernels: cuBLASLt takes multiples of 8
step: products of 192 x 64 in f32 by our own kernels: $why
END
}
