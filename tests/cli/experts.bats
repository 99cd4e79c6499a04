# A mixture of experts (Mixtral) through the programs: a decoder of two layers with four experts each.
# Gradients, the balancing loss's values and GGUF are in tests/unit/test_model_experts.c.
# also under sanitizers
load common

GOLDEN=$REPO/tests/golden/mixtral

setup() {
    mkdir tiny
    cp "$GOLDEN"/{config.json,model.safetensors} "$REPO/tests/pipelines/tokenizer.json" tiny/
    chmod u+w tiny/*
    echo '{"bos_token": "<s>", "eos_token": "</s>"}' >tiny/tokenizer_config.json
    export VP_MODEL=$PWD/tiny
    cut -c1-160 >texts <<<"$(sed -n 's/.*"text": *"\([^"]*\)".*/\1/p' "$REPO/examples/corpus.jsonl")"
    for i in 1 2 3 4; do
        echo "{\"query\":[\"Find: \",\"river $i\"],\"pos\":[[\"\",\"river $((i * 7 % 13)) runs\"]],\"neg\":[[\"\",\"dam $i\"]]}"
    done >pairs.jsonl
    for i in 1 2 3; do
        echo "{\"messages\":[{\"role\":\"user\",\"content\":\"Say $i \"},{\"role\":\"assistant\",\"content\":\" $i it is \"}]}"
    done >chats.jsonl
}

feed() { mix pairs.jsonl --batch 4 --generative chats.jsonl --generative-batch 3 --steps 2 | tok --chat grit | mask grit; }
joint() { step --objective grit --pool mean --attention bi --lr 1e-2 --threads 1 -q "$@"; }

@test "a text alone, in a batch, with other threads and micro-batches is the same bytes" {
    head -n 6 texts | tok --lines | tee ids.vp | fwd --threads 1 --pool mean >whole.vp
    fwd --threads 2 --batch-tokens 1 --pool mean <ids.vp >parts.vp
    peek --diff whole.vp parts.vp
    sed -n 3p texts | tok --lines | fwd --pool mean | peek --jsonl --columns emb - >alone
    peek --jsonl --columns emb whole.vp | sed -n 3p >in_batch
    cmp <(grep -o '"emb":.*' alone) <(grep -o '"emb":.*' in_batch)
}

@test "training: piped is fused, however the step is cut; the balancing loss is the configuration's share of it" {
    feed >steps.vp
    joint --lora r=2,alpha=4 --lambda-gen 0.5 --out fused --log fused.log <steps.vp
    fwd --attention bi --threads 1 --follow piped <steps.vp | pool mean | loss grit --lambda-gen 0.5 |
        step --lora r=2,alpha=4 --lr 1e-2 --threads 1 -q --out piped --log piped.log
    cmp fused/adapter_model.safetensors piped/adapter_model.safetensors
    losses() { grep -o '"loss":[0-9.]*,"loss_gen":[0-9.]*' "$1"; }
    diff <(losses fused.log) <(losses piped.log)
    for recompute in mlp layer; do
        joint --lora r=2,alpha=4 --lambda-gen 0.5 --recompute $recompute --batch-tokens 1 --activations 1 --out $recompute <steps.vp
        cmp fused/adapter_model.safetensors $recompute/adapter_model.safetensors
    done
    # E sum f P is about k = 2 of untrained routers: what a coefficient adds to the first step's loss, at --lambda-gen 0.5
    sed -i 's/"router_aux_loss_coef": 0.001/"router_aux_loss_coef": 0/' tiny/config.json
    joint --lora r=2,alpha=4 --lambda-gen 0.5 --out none --log none.log <steps.vp
    run ! cmp -s fused/adapter_model.safetensors none/adapter_model.safetensors
    paste -d: <(losses fused.log | head -n 1) <(losses none.log | head -n 1) | tr ',' ':' |
        awk -F: '{ d = $4 - $8; exit !(d > 0.5 * 0.001 * 1.8 && d < 0.5 * 0.001 * 2.8) }'
    # other objectives have none of it
    head -n 4 texts | tok --lines --pack 24 --batch 2 --steps 1 | mask mntp --rate 0.3 >masked.vp
    step --objective mntp --lora r=2,alpha=4 --lr 1e-2 --out without -q <masked.vp
    cp "$GOLDEN/config.json" tiny/
    step --objective mntp --lora r=2,alpha=4 --lr 1e-2 --out with -q <masked.vp
    cmp with/adapter_model.safetensors without/adapter_model.safetensors
}

@test "routers and experts train with --full: the result is a model that generates; merge keeps every name" {
    feed | joint --full --out whole
    expect 0 gen -m whole --lines --greedy --max-tokens 3 <<<'a river'
    python3 - <<'PY'
import json, struct
def header(path):
    with open(path, "rb") as f:
        return json.loads(f.read(struct.unpack("<Q", f.read(8))[0])), f.read()
base, before = header("tiny/model.safetensors")
new, after = header("whole/model.safetensors")
shapes = lambda h: {k: v["shape"] for k, v in h.items() if k != "__metadata__"}
assert shapes(base) == shapes(new), set(base) ^ set(new)
def same(name):
    a, b = base[name]["data_offsets"], new[name]["data_offsets"]
    return before[a[0]:a[1]] == after[b[0]:b[1]]
for name in shapes(base):
    assert same(name) == (name == "lm_head.weight"), name
PY
    step --objective mntp --lora r=2,alpha=4 --lr 1e-2 --out lora -q \
        < <(head -n 4 texts | tok --lines --pack 24 --batch 2 --steps 1 | mask mntp --rate 0.3)
    merge -q --adapter lora --out merged
    head -n 3 texts | tok --lines | fwd --adapter lora --pool mean >fly.vp
    head -n 3 texts | tok -m merged --lines | fwd --pool mean >merged.vp
    peek --diff fly.vp merged.vp --tol 1e-5
}

@test "adapters are attention's: experts and routers are refused by name" {
    feed >steps.vp
    refused 2 step --objective grit --pool mean --lora r=2 --lora-targets q_proj,w2 --out refused <steps.vp
    grep -q "target 'w2': experts and their router carry no adapters; train them with --full" err
    joint --lora r=2 --lora-targets q_proj --out lora <steps.vp
    python3 - <<'PY'
import struct
path = "lora/adapter_model.safetensors"
data = open(path, "rb").read()
n = struct.unpack("<Q", data[:8])[0]
header = data[8:8 + n].replace(b"layers.0.self_attn.q_proj", b"layers.0.block_sparse_moe.gate")
open(path, "wb").write(struct.pack("<Q", len(header)) + header + data[8 + n:])
PY
    refused 3 fwd --adapter lora <steps.vp
    grep -q 'block_sparse_moe.gate.lora_[AB].weight: only attention takes adapters in a mixtral model' err
}
