# NV-Embed: pooling by latent attention, its form of texts, folders of its kind, and pipelines/nv-embed on a decoder of two
# layers: both stages, fused and piped, continued, killed and resumed, used and merged.
load common

nv-embed() { "$REPO/pipelines/nv-embed" "$@"; }

setup() {
    mkdir tiny
    cp "$REPO"/tests/golden/mistral/{config.json,model.safetensors} "$REPO/tests/pipelines/tokenizer.json" tiny/
    echo '{"bos_token":"<s>","eos_token":"</s>"}' >tiny/tokenizer_config.json
    corpus=$REPO/examples/corpus.jsonl
    local pair='s/.*"title": "([^"]*)", "text": "([^"]*)".*'
    sed -E "$pair"'/{"instruction":"Find it","query":"\1","positive":"\2","negative":["nothing","of it"]}/' "$corpus" >ask.jsonl
    sed -E "$pair"'/{"instruction":"Alike","query":"\1","positive":[["Alike","\2"]],"negative":[["Alike","x"]]}/' "$corpus" >sts.jsonl
    export VP_MODEL=$PWD/tiny
    small=(--batch 4 --length 48 --latent 'latents=8,heads=2,width=12,inner=20' -q)
}

same_result() {
    cmp "$1/adapter_model.safetensors" "$2/adapter_model.safetensors"
    cmp "$1/latent_attention_model.safetensors" "$2/latent_attention_model.safetensors"
}

# The values of a column of lists, a line each.
column() { peek --jsonl --columns "$1" | sed -E 's/.*\[(.*)\].*/\1/'; }

@test "--help has the preset's values" {
    expect 0 nv-embed --help
    grep -q '^  *--candidates KIND .*\[batch | own\]$' out
    expect 0 nv-embed --preset mistral-7b --help
    grep -q '^  *--lr X .*\[2e-5 | 1.5e-5\]$' out
    grep -q '^  *--negatives N .*\[7\]$' out
    grep -q '^  *--lora SPEC .*\[r=16,alpha=32,dropout=0.1\]$' out
}

@test "wrong usage is 2, in one line" {
    while read -r line; do
        # shellcheck disable=SC2086
        refused 2 nv-embed $line || { echo "$line"; false; }
    done <<END
stage3
stage1
stage1 -o run
stage1 ask.jsonl
stage1 -o run ask.jsonl --rate 3
stage1 -o run ask.jsonl --set sts.jsonl
all -o run ask.jsonl
all -o run --set sts.jsonl
END
    refused 2 nv-embed stage2 -o run ask.jsonl
    grep -q -- '--continue DIR of stage 1' err
    sed 's/,"negative":.*/}/' ask.jsonl >plain.jsonl
    expect 3 nv-embed stage1 -o run plain.jsonl "${small[@]}" --steps 2
    grep -q '^mask: .*example 0 has no negative: mine-negs finds some, --negatives 0 takes none' err
    rm -r run
    expect 2 nv-embed stage1 -o run ask.jsonl "${small[@]}" --steps 2 --latent latents=8x
    grep -q "^step: 'latents=8x' is none of latents=N," err
}

@test "both stages: piped gives the bytes of fused; the second goes on with adapter and latents" {
    for way in '' --piped; do
        # shellcheck disable=SC2086
        expect 0 nv-embed all -o "run$way" --retrieval ask.jsonl --set sts.jsonl "${small[@]}" --steps 3 $way
        [ ! -s out ]
    done
    for stage in stage1 stage2; do
        same_result run/$stage run--piped/$stage
        [ "$(grep -c '"program":"step","event":"step"' run/$stage/log.jsonl)" -eq 3 ]
    done
    expect 1 cmp run/stage1/latent_attention_model.safetensors run/stage2/latent_attention_model.safetensors
    grep -q '"adapters": \[\]' run/stage2/train.json
    expect 0 nv-embed stage2 -o alone --continue run/stage1 ask.jsonl sts.jsonl "${small[@]}" --steps 3
    same_result run/stage2 alone
}

@test "--dry-run prints what it runs, and the end says how to embed" {
    expect 0 nv-embed stage1 -o run ask.jsonl "${small[@]}" --steps 2 --dry-run
    [ ! -e run ]
    bash -euo pipefail out
    expect 0 nv-embed stage1 -o other ask.jsonl "${small[@]:0:6}" --steps 2
    same_result run other
    use=$(sed -n 's/^nv-embed: done. Embed with: //p' err)
    [ "$use" = "tok -m $VP_MODEL --adapter other < texts.jsonl | fwd | pool" ]
    head -n 3 "$corpus" >texts.jsonl
    eval "$use" >trained.vp
    peek trained.vp | grep -q '"attention":"bi".*"chat":"NV-Embed".*"pooling":"latent"'
}

@test "a result needs no options, nor does what merge makes of it" {
    nv-embed stage1 -o run ask.jsonl "${small[@]}" --steps 2
    tok --adapter run <"$corpus" | fwd | pool >a.vp
    tok --adapter run <"$corpus" | fwd --pool auto >b.vp
    peek --diff a.vp b.vp
    merge --adapter run --out merged 2>err
    tok -m merged <"$corpus" | fwd | pool >c.vp
    peek --diff a.vp c.vp --tol 1e-5
    head -n 5 "$corpus" | tok --adapter run | fwd | pool | knn add corpus.idx
    echo 'a question' | tok -m corpus.idx --lines --query --instruction 'Find it' | fwd | pool | knn search corpus.idx -k 1 >hits
    [ "$(wc -l <hits)" -eq 1 ]
    cp -r run other
    printf 'x' | dd of=other/latent_attention_model.safetensors bs=1 seek=3000 conv=notrunc status=none
    echo 'a question' | tok --adapter other --lines --query | fwd | pool >q.vp
    expect 3 knn search corpus.idx <q.vp
}

@test "a folder as NV-Embed is published decides by itself" {
    mkdir nv
    cp "$REPO"/tests/golden/nv-embed/{config.json,model.safetensors} tiny/tokenizer*.json nv/
    printf 'a\nb \n' | tok -m nv --lines >docs.vp
    fwd <docs.vp | pool | peek | grep -q '"attention":"bi".*"chat":"NV-Embed".*"pooling":"latent","projection":"'
    [ "$(column ids <docs.vp | grep -c '^1,.*,2$')" -eq 2 ]
    expect 0 merge -m nv --out merged --dtype f16
    tok -m nv --lines <"$corpus" | fwd | pool >a.vp
    tok -m merged --lines <"$corpus" | fwd | pool >b.vp
    peek --diff a.vp b.vp
}

@test "its form: the instruction and what stands before it are not pooled, the end is" {
    echo '{"query":"ab","instruction":"T","positive":["ab",["T","ab"]]}' | tok --chat NV-Embed --batch 1 >steps.vp
    column ids <steps.vp >ids
    column keep <steps.vp >keep
    tok --lines <<<'ab</s>' | column ids >plain
    [ "$(sed -n 2p ids)" = "$(cat plain)" ]
    [ "$(sed -n 1p ids)" = "$(sed -n 3p ids)" ]
    tok --template $'Instruct: T\nQuery: {text}</s>' --lines <<<'ab' | column ids >templated
    [ "$(sed -n 1p ids)" = "$(cat templated)" ]
    [[ $(sed -n 2p keep) =~ ^(1,)+1$ ]]
    [[ $(sed -n 1p keep) =~ ^(0,)+(1,)+1$ ]]
    tok --lines --chat NV-Embed --max-len 3 -q <<<'a long text' | column ids | grep -qv ',2$'
    rm tiny/tokenizer_config.json
    refused 3 tok --lines --chat NV-Embed <<<'a'
    grep -q 'no end of text' err
}

@test "pooling by latent attention where there is none, or is none to follow, is refused" {
    tok --lines <<<'a' | fwd >hidden.vp
    expect 2 pool latent <hidden.vp
    grep -q 'the model has no latent-attention layer' err
    expect 2 pool mean --follow run <hidden.vp
    grep -q 'only latent attention, or with --project a projection, is trained' err
    tok --lines <<<'a' >ids.vp
    expect 2 fwd --pool latent <ids.vp
    grep -q 'the model has no latent-attention layer' err
    mix ask.jsonl --batch 4 --steps 1 | tok | mask pairs --negatives 1 >steps.vp
    expect 2 step --objective infonce --pool mean --latent latents=4 --out run <steps.vp
    grep -q 'are for pooling latent' err
    nv-embed stage1 -o run ask.jsonl "${small[@]}" --steps 1
    expect 2 step --objective infonce --attention bi --pool latent --continue run --latent latents=9 --out other <steps.vp
    grep -q 'has other sizes' err
    expect 0 step --objective infonce --attention bi --pool latent --latent latents=4,heads=2,form=plain --out flat <steps.vp
    expect 2 step --objective infonce --attention bi --pool latent --continue flat --latent form=gated --out other <steps.vp
    grep -q 'has other sizes' err
}

@test "a model that is trained whole gets its latents beside it" {
    mix ask.jsonl --batch 4 --steps 2 | tok --chat NV-Embed --max-len 40 -q | mask pairs --negatives 1 |
        step --full --objective infonce --attention bi --pool latent --latent latents=4,form=plain --lr 1e-3 --out full -q
    tok -m full <"$corpus" | fwd | pool >full.vp
    peek full.vp | grep -q '"attention":"bi".*"chat":"NV-Embed".*"pooling":"latent"'
}

@test "killed and resumed gives the bytes of an undisturbed run" {
    long=("${small[@]}" --steps 60 --checkpoint-every 1)
    nv-embed stage1 -o undisturbed ask.jsonl "${long[@]}"
    killed_and_resumed nv-embed stage1 ask.jsonl "${long[@]}" --piped
    same_result run undisturbed
}
