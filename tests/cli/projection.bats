# A projection of pooled vectors, GRIT's embedding head, on a decoder of two layers: trained fused and piped, saved, applied
# without options, merged, indexed, continued; what is refused. Gradients by differences: tests/unit/test_projection.c.
# also under sanitizers
load common

grit() { "$REPO/pipelines/grit" "$@"; }

setup() {
    mkdir tiny
    cp "$REPO"/tests/golden/llama/{config.json,model.safetensors} "$REPO/tests/pipelines/tokenizer.json" tiny/
    echo '{"bos_token": "<s>", "eos_token": "</s>"}' >tiny/tokenizer_config.json
    for i in $(seq 12); do
        echo "{\"query\":[\"Find: \",\"river $i\"],\"pos\":[[\"\",\"river $((i * 7 % 13)) runs\"],[\"x\",\"second\"]],\"neg\":[[\"\",\"dam $i\"]]}"
    done >pairs.jsonl
    printf '{"text":["Say %s","%s it is"]}\n' 1 1 2 2 3 3 4 4 >chats.jsonl
    printf '{"prompt":"Say %s","completion":"%s it is","label":%s}\n' 1 1 1 2 2 0 3 3 1 4 4 0 >answers.jsonl
    printf '{"id":"%s","text":"river %s"}\n' a 1 b 2 c 3 >texts
    small=(--steps 3 --batch 4 --threads 1 -q)
    joint=(joint -m tiny --chats chats.jsonl pairs.jsonl "${small[@]}" --generative-batch 2 --lr 1e-2)
}
same() {
    cmp "$1/adapter_model.safetensors" "$2/adapter_model.safetensors"
    cmp "$1/2_Dense/model.safetensors" "$2/2_Dense/model.safetensors"
}
column() { peek --jsonl --columns "$1" "${2:--}"; }
numbers() { column emb "$1" | head -n 1 | tr -cd , | wc -c; }
steps() { mix pairs.jsonl --batch 4 --steps 3 | tok -m "${1:-tiny}" --chat grit | mask pairs; }
infonce() { step --objective infonce --attention bi --pool mean --lora r=2,alpha=4 --lr 1e-2 --threads 1 -q "$@"; }

@test "piped gives the bytes of fused, in any batches, and it learns; a result needs no options" {
    expect 0 grit "${joint[@]}" --project 24 -o fused
    grit "${joint[@]}" --project 24 -o piped --piped
    same fused piped
    grit "${joint[@]}" --project 24 -o few --batch-tokens 64
    same fused few
    grit "${joint[@]}" --project 24 -o still --lr 1e-9
    run ! cmp -s fused/2_Dense/model.safetensors still/2_Dense/model.safetensors
    tok -m tiny --adapter fused texts | fwd | pool >vectors.vp
    [ "$(numbers vectors.vp)" -eq 23 ]
    peek vectors.vp | grep -q '"attention":"bi".*"dims":24.*"pooling":"mean","projection":"[0-9a-f]\{32\}"'
    tok -m tiny --adapter fused texts | fwd --pool auto | column emb | diff - <(column emb vectors.vp)
    tok -m tiny --adapter fused texts | fwd | pool --dims 7 >short.vp
    [ "$(numbers short.vp)" -eq 6 ]
    # the space is another one
    tok -m tiny --adapter still texts | fwd | pool >other.vp
    knn add index <vectors.vp
    expect 3 knn search index <other.vp
    tok -m index texts | fwd | pool | column emb | diff - <(column emb vectors.vp)
    # merged, also with other weights beside it
    merge -m tiny --adapter fused --dtype f32 --out merged
    cmp merged/2_Dense/model.safetensors fused/2_Dense/model.safetensors
    tok -m merged texts | fwd | pool >merged.vp
    peek --diff vectors.vp merged.vp --tol 1e-4 >/dev/null
    merge -m merged --dtype f32 --out again
    cmp again/2_Dense/model.safetensors fused/2_Dense/model.safetensors
    # KTO behind it keeps it, stacked or continued
    grit kto -m tiny --adapter fused -o tuned answers.jsonl "${small[@]}"
    tok -m tiny --adapter fused --adapter tuned texts | fwd | pool | numbers - | grep -qx 23
    grit kto -m tiny --continue fused -o on answers.jsonl "${small[@]}"
    cmp on/2_Dense/model.safetensors fused/2_Dense/model.safetensors
}

@test "what the numbers are: the mean, W, b, length 1" {
    steps | infonce --project 5 --out run
    tok -m tiny --adapter run texts | fwd >hidden.vp
    column hidden hidden.vp >hidden
    column keep hidden.vp >keep
    pool <hidden.vp | column emb >emb
    python3 - <<'PY'
import json, struct
with open("run/2_Dense/model.safetensors", "rb") as f:
    head = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
    data = f.read()
def tensor(name):
    begin, end = head[name]["data_offsets"]
    return struct.unpack(f"<{(end - begin) // 4}f", data[begin:end])
w, b = tensor("linear.weight"), tensor("linear.bias")
assert len(w) == 5 * 64 and len(b) == 5
for line, kept, got in zip(open("hidden"), open("keep"), open("emb"), strict=True):
    rows = [h for h, k in zip(json.loads(line)["hidden"], json.loads(kept)["keep"], strict=True) if k]
    mean = [sum(c) / len(rows) for c in zip(*rows)]
    y = [sum(w[d * 64 + c] * mean[c] for c in range(64)) + b[d] for d in range(5)]
    n = sum(x * x for x in y) ** 0.5
    assert max(abs(x / n - e) for x, e in zip(y, json.loads(got)["emb"], strict=True)) < 1e-5
PY
    printf '{"in_features": 64, "out_features": 5, "bias": true, "activation_function": "torch.nn.modules.linear.Identity"}' |
        python3 -c 'import json, sys; assert json.load(sys.stdin) == json.load(open("run/2_Dense/config.json"))'
}

@test "all weights; training that goes on; killed and resumed" {
    steps | step --full --objective infonce --attention bi --pool mean --project 6 --lr 1e-3 --threads 1 -q --out full
    tok -m full texts | fwd | pool | numbers - | grep -qx 5
    # without a format of texts that is ours alone, as sentence-transformers has it
    mix pairs.jsonl --batch 4 --steps 3 | tok -m tiny --chat none | mask pairs |
        step --full --objective infonce --attention bi --pool mean --project 6 --lr 1e-3 --threads 1 -q --out plain
    for folder in plain "$(merge -m plain --dtype f32 --out merged && echo merged)"; do
        grep -o '"path": *"[^"]*"' $folder/modules.json | tr -d '" ' | tr '\n' ' ' | grep -qx 'path: path:1_Pooling path:2_Dense path:3_Normalize '
        tok -m $folder texts | fwd | pool | numbers - | grep -qx 5
    done
    # the model's own is fixed, or goes on
    steps full >steps.vp
    step -m full --objective infonce --lora r=2,alpha=4 --lr 1e-2 --threads 1 -q --out fixed <steps.vp
    [ ! -e fixed/2_Dense ]
    tok -m full --adapter fixed texts | fwd | pool | numbers - | grep -qx 5
    infonce -m full --project 6 --out on <steps.vp
    run ! cmp -s on/2_Dense/model.safetensors full/2_Dense/model.safetensors
    steps >steps.vp
    infonce --project 6 --out run <steps.vp
    infonce --continue run --out further <steps.vp
    run ! cmp -s run/2_Dense/model.safetensors further/2_Dense/model.safetensors
    expect 2 infonce --continue run --project 7 --out none <steps.vp
    grep -q 'its projection, which training goes on with, has 6 dimensions' err
    long=(-m tiny --chats chats.jsonl pairs.jsonl --steps 60 --batch 4 --generative-batch 2 --threads 1 --checkpoint-every 1 -q --project 6)
    grit joint -o undisturbed "${long[@]}"
    killed_and_resumed grit joint "${long[@]}"
    cmp run/2_Dense/model.safetensors undisturbed/2_Dense/model.safetensors
}

@test "what is refused" {
    steps >steps.vp
    expect 2 infonce --pool latent --project 4 --out none <steps.vp
    expect 2 infonce --project 4 --dims 5 --out none <steps.vp
    expect 2 step --objective ntp --pool pick --project 4 --out none <steps.vp
    fwd --attention bi <steps.vp >hidden.vp
    refused 2 pool mean --project 4 <hidden.vp
    refused 2 pool pick --project 4 --follow none <hidden.vp
    infonce --project 4 --out run <steps.vp
    # of a run with a projection nobody makes vectors without it
    fwd --attention bi --threads 1 --follow live <steps.vp | pool mean --project 5 --follow live 2>err | loss infonce |
        infonce --project 4 --out live 2>/dev/null || true
    grep -q "'live' trains no projection to 5 dimensions" err
    rm -rf live
    fwd --attention bi --threads 1 --follow live --pool mean <steps.vp 2>err | loss infonce | infonce --project 4 --out live 2>/dev/null || true
    grep -q 'the run trains another projection than one to 0 dimensions' err
    damaged() { # WHAT FILE OLD NEW
        rm -rf bad
        cp -r run bad
        sed -i "s/$3/$4/" "bad/2_Dense/$2"
        expect 3 tok -m tiny --adapter bad texts
        grep -q "$1" err || { cat err; false; }
    }
    damaged 'activation_function "torch.nn.modules.activation.Tanh" is not supported' config.json linear.Identity activation.Tanh
    damaged 'a projection of 65 to 4 for a model of width 64' config.json 64 65
    damaged 'linear.weight has shape \[4, 64\], not \[3, 64\]' config.json '": 4' '": 3'
    damaged 'tensor linear.weight is missing' model.safetensors linear.weight linear.weigh_
    tok -m tiny --adapter run texts | fwd >of.vp
    printf 'x' | dd of=run/2_Dense/model.safetensors bs=1 seek=500 conv=notrunc status=none
    expect 3 pool <of.vp
    grep -q 'the projection was changed or replaced' err
}
