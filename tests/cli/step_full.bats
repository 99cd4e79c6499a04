# step --full and step --train head on tiny models: what the folder holds, that piped and fused and every cut give the
# same bytes, and what is refused. The gradients are tests/unit/test_model_training's.
# also under sanitizers
load common

GOLDEN=$REPO/tests/golden

# A golden model with a tokenizer of its 320 tokens, and masked steps of several gradient units each.
setup() {
    cp -r "$GOLDEN/llama-gqa-tied" tied
    cp -r "$GOLDEN/llama" untied
    rm -r tied/adapter untied/adapter
    python3 - "$REPO/tests/tokenizers/digits.json" >untied/tokenizer.json <<'PY'
import json, sys
t = json.load(open(sys.argv[1]))
m = t["model"]
m["vocab"] = {k: v for k, v in m["vocab"].items() if v < 320}
parts = lambda x: x.split(" ") if isinstance(x, str) else x
m["merges"] = [x for x in m["merges"] if "".join(parts(x)) in m["vocab"] and all(p in m["vocab"] for p in parts(x))]
t["added_tokens"] = [a for a in t["added_tokens"] if a["id"] < 320]
json.dump(t, sys.stdout)
PY
    cp untied/tokenizer.json tied
    for i in $(seq 80); do echo "{\"text\":\"$(printf 'some words %.0s' $(seq $((i % 7 + 1))))$((i * 7919))\"}"; done >texts
}

# masked MODEL: its stream of two steps; each has three units of two rows
masked() { tok -m "$1" --pack 200 --batch 6 --steps 2 texts | mask mntp --rate 0.4 --mask-token 5; }
FUSED=(--objective mntp --attention bi --lr 1e-3)
fused() { step "${FUSED[@]}" "$@"; }
# piped DIR OPTION...
piped() {
    local dir=$1
    shift
    fwd --attention bi --follow "$dir" | pool pick | loss mntp --follow "$dir" | step --lr 1e-3 --out "$dir" "$@"
}

@test "--full: a model folder that fwd opens, as the base's type or another" {
    masked untied >ids
    expect 0 fused --full --out run <ids
    [ -e run/config.json ] && [ -e run/model.safetensors ] && [ -e run/tokenizer.json ] && [ ! -e run/adapter_config.json ]
    grep -q '"is_causal": false' run/config.json
    grep -q '"dtype": "float32"' run/config.json
    [ -z "$(find run -name '*.tmp-*' -o -name result)" ]
    tok -m untied texts >plain
    fwd -m untied --attention bi <plain >before.vp
    tok -m run texts | fwd >after.vp
    peek after.vp | grep -q '"attention":"bi"'
    run ! peek --diff --columns hidden before.vp after.vp --tol 1e-3
    fused --full --dtype bf16 --out half <ids
    [ "$(stat -c %s half/model.safetensors)" -lt "$(stat -c %s run/model.safetensors)" ]
    tok -m half texts | fwd >half.vp
    peek --diff --columns hidden after.vp half.vp --tol 0.1
}

@test "piped, fused and every cut give the same bytes: tied, untied, and with the head" {
    for model in tied untied; do
        for head in body head; do
            masked $model >ids
            fused --full --train $head --out "a-$model-$head" <ids
            fused --full --train $head --batch-tokens 1 --threads 1 --out "b-$model-$head" <ids
            piped "c-$model-$head" --full --train $head <ids
            for other in b c; do
                cmp "a-$model-$head/model.safetensors" "$other-$model-$head/model.safetensors"
                cmp "a-$model-$head/checkpoint/weights.safetensors" "$other-$model-$head/checkpoint/weights.safetensors"
            done
        done
    done
    cmp a-tied-body/model.safetensors a-tied-head/model.safetensors # one weight, trained once
    run ! cmp -s a-untied-body/model.safetensors a-untied-head/model.safetensors
}

@test "a head beside an adapter: trained, kept in the checkpoint, not in the result" {
    masked untied >ids
    fused --train head --out a <ids
    piped b --train head <ids
    fused --out plain <ids
    cmp a/adapter_model.safetensors b/adapter_model.safetensors
    cmp a/checkpoint/weights.safetensors b/checkpoint/weights.safetensors
    run ! cmp -s a/adapter_model.safetensors plain/adapter_model.safetensors
    grep -q lm_head.weight a/checkpoint/weights.safetensors
    run ! grep -q lm_head a/adapter_model.safetensors
}

@test "stopped and resumed is undisturbed" {
    for model in tied untied; do
        masked $model >ids
        fused --full --train head --out "whole-$model" <ids
        tok -m $model --pack 200 --batch 6 --steps 1 texts | mask mntp --rate 0.4 --mask-token 5 |
            fused --full --train head --decay-steps 2 --out "parts-$model"
        tok -m $model --pack 200 --batch 6 --steps 2 --resume "parts-$model" texts |
            mask mntp --rate 0.4 --mask-token 5 | fused --full --train head --decay-steps 2 --resume "parts-$model"
        cmp "whole-$model/checkpoint/weights.safetensors" "parts-$model/checkpoint/weights.safetensors"
        cmp "whole-$model/model.safetensors" "parts-$model/model.safetensors"
    done
}

@test "what does not go together" {
    masked untied >ids
    refused 2 step "${FUSED[@]}" --full --lora r=4 --out x <ids
    refused 2 step "${FUSED[@]}" --full --lora-targets q_proj --out x <ids
    refused 2 step "${FUSED[@]}" --full --continue "$GOLDEN/llama/adapter" --out x <ids
    refused 2 step "${FUSED[@]}" --full --out untied <ids
    cmp untied/config.json "$GOLDEN/llama/config.json"
    refused 2 step --train head --objective infonce --pool mean --out x <ids
    masked tied | refused 2 step "${FUSED[@]}" --train head --out x
    refused 2 loss infonce --follow x </dev/null
    # a head that `loss` did not follow
    fwd -m untied --attention bi <ids | pool pick | loss mntp | refused 2 step --train head --lr 1e-3 --out x
    grep -q 'loss --follow' err
}
