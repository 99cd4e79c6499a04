# LLaRA on a decoder of two layers: tokens for the slots, prompts, pre-training rows, and pipelines/llara, fused and piped,
# killed and resumed. What the objective computes is in tests/py/test_llara.py.
# also under sanitizers
load common

llara() { "$REPO/pipelines/llara" "$@"; }
passages() { "$REPO/pipelines/rows" passages "$@"; }

setup() {
    mkdir tiny
    cp "$REPO"/tests/golden/llama-gqa-tied/{config.json,model.safetensors} "$REPO/tests/pipelines/tokenizer.json" tiny/
    echo '{"eos_token": "</s>"}' >tiny/tokenizer_config.json
    corpus=$REPO/examples/corpus.jsonl
    small=(--steps 3 --batch 4 --length 130 --threads 1 -q)
}

grown() { merge -m tiny --extra-tokens 16 --dtype f32 --out grown; }
texts() { for i in 1 2 3 4; do echo "{\"text\":\"cat number $i\"}"; done; }

make_pairs() {
    sed -E 's/.*"title": "([^"]*)", "text": "([^"]*)".*/{"query":"\1","pos":["\2"],"neg":["nothing of it","nor this"]}/' \
        "$corpus" >pairs.jsonl
}

@test "merge --extra-tokens: tokens behind the vocabulary, and rows that are drawn the same every time" {
    grown
    merge -m tiny --extra-tokens 16 --dtype f32 --out again
    cmp grown/model.safetensors again/model.safetensors
    grep -q '"vocab_size": 336' grown/config.json
    echo 'a <s1> b<s16>' | tok -m grown --lines | peek --jsonl --columns ids >ids
    grep -q ',320,.*,335\]' ids
    # whatever else there was is as it was
    echo 'cats' | tok -m tiny --lines | fwd >before.vp
    echo 'cats' | tok -m grown --lines | fwd >after.vp
    [ "$(peek --jsonl --columns hidden before.vp)" = "$(peek --jsonl --columns hidden after.vp)" ]
    expect 3 merge -m grown --extra-tokens 1 --out more
    grep -q "has a token <s1> already" err
    [ ! -e more ]
}

@test "tok --chat llara: pieces by themselves, the slots kept, and only the text is cut" {
    texts >t
    expect 3 tok -m tiny --chat llara t
    grep -q 'no <s1>: merge --extra-tokens' err
    grown
    tok -m grown --chat llara t | peek --jsonl --columns ids,keep >documents
    tok -m grown --chat llara --query t | peek --jsonl --columns ids,keep >queries
    tok -m grown --chat llara --max-len 46 t 2>/dev/null | peek --jsonl --columns ids,keep >shorter
    expect 2 tok -m grown --chat llara --max-len 44 t
    tok -m grown --specials none t | peek --jsonl --columns ids >plain
    python3 -c '
import json
read = lambda name: [json.loads(line) for line in open(name)]
for d, q, c, p in zip(*map(read, ("documents", "queries", "shorter", "plain"))):
    n = len(p["ids"])
    for row, first in ((d, 320), (q, 328), (c, 320)):
        assert row["ids"][-8:] == list(range(first, first + 8)) and row["keep"] == [0] * (len(row["ids"]) - 8) + [1] * 8, row
    assert d["ids"][2 : 2 + n] == p["ids"] and d["ids"][0] == 1 and len(c["ids"]) == 46, d
    gone = len(d["ids"]) - 46
    assert c["ids"] == d["ids"][: 2 + n - gone] + d["ids"][2 + n :]'
    texts | tok -m tiny --chat llara-paper | peek --jsonl --columns ids,keep | grep -q ',2\],"keep":\[0,.*,0,1\]'
}

@test "vecpipe_config.json: what is not known in it is refused" {
    for config in '{"chat":"lama"}' '{"chat":"llara","pooling":"most"}' '{"max_length":0}' '{"normalize":1}' '[]'; do
        echo "$config" >tiny/vecpipe_config.json
        texts | refused 3 tok -m tiny
    done
    echo '{"chat":"lama"}' >tiny/vecpipe_config.json
    texts | tok -m tiny --chat none | peek | grep -q '"specials":"auto"'
    echo '{"chat":"llara-paper","pooling":"last"}' >tiny/vecpipe_config.json
    texts | tok -m tiny | fwd | pool | peek | grep -q '"chat":"llara-paper".*"pooling":"last"'
}

@test "mask llara: segments, positions, targets and bags" {
    grown
    for i in 1 2 3 4 5; do echo "{\"input\":\"cat $i\",\"output_predict\":\"a dog, a dog $i\"}"; done >records
    sed 's/"output_predict":"[^"]*"/"output_summarize":"cat"/; s/cat 3/kitten/' records | head -n 3 | tail -n 1 >>records
    tok -m grown --batch 6 records | mask llara >whole.vp
    tok -m grown --batch 6 --batch-tokens 1 records | mask llara --batch-tokens 100 >cut.vp
    [ "$(peek cut.vp | grep -c '^batch')" -gt 1 ]
    [ "$(peek --jsonl whole.vp)" = "$(peek --jsonl cut.vp)" ]
    peek whole.vp | grep -q '"attention":"segments"'
    peek --jsonl --columns row,ids,pos,seg,target,weight,bag whole.vp | python3 -c '
import json, sys
rows = [json.loads(line) for line in sys.stdin]
for r in sorted(rows, key=lambda r: r["row"]):
    m = r["seg"].count(0)
    n = [r["seg"].count(k) for k in (1, 2)]
    assert r["seg"] == [0] * m + [1] * n[0] + [2] * n[1]
    assert r["pos"] == list(range(m)) + list(range(m, m + n[0])) + list(range(m, m + n[1]))
    text = r["ids"][2:m]
    assert r["target"][:m] == [-1] + text + [-1] and r["weight"][:m] == [0] + [1] * len(text) + [0]
    assert r["target"][m : m + n[0]] == [-1] * (n[0] - 8) + [-2] * 8
    last = r["row"] == 5
    assert r["target"][m + n[0] :] == [-1] * (n[1] - 8) + [-1 if last else -3] * 8
    assert abs(r["weight"][m + n[0] - 1] - 1 / 12) < 1e-6 and abs(r["weight"][-1] - (0 if last else 1 / 10)) < 1e-6
    assert all(bag == sorted(set(bag)) and not any(x < 3 or x >= 320 for x in bag) for bag in r["bag"])
    assert (r["bag"][0] == sorted(set(text))) != last and (r["bag"][1] == []) == last, r
assert len(rows) == 6'
    tok -m grown --batch 6 --max-len 12 records | mask llara --max-len 100 --no-next-tokens >short.vp
    [ "$(peek --jsonl --columns ids short.vp | tr -dc ',\n' | awk '{ if (length > most) most = length } END { print most + 1 }')" -le 100 ]
    peek short.vp | grep -Eq '^  weight_sum 0'
    tok -m grown --batch 6 records | mask llara --no-next-text | peek --jsonl --columns bag | grep -vq '\],\[\]\]' && false
    refused 2 mask llara --prompt lama <whole.vp
    tok -m grown --batch 6 records | (expect 2 mask llara --max-len 80 && grep -q 'no room' err)
    tok -m tiny --batch 6 records | expect 3 mask llara
    make_pairs
    tok -m grown --batch 6 pairs.jsonl | (expect 3 mask llara && grep -q 'is no text with' err)
}

@test "texts without a next one: counted, and refused where the first step has no other" {
    grown
    passages --words 8 "$corpus" | grep -v '^{"_vp"' | head -n 3 >records
    for i in 1 2 3 4; do echo "{\"input\":\"cat $i\",\"output_summarize\":\"cat $i\"}"; done >>records
    tok -m grown --batch 7 -q records >mixed.vp
    expect 0 mask llara <mixed.vp
    grep -qx 'mask: 4 of 7 texts have no next one, which their slots should foretell: make them with `rows passages`' err
    [ "$(wc -l <err)" -eq 1 ]
    for own in -q --no-next-text; do
        expect 0 mask llara $own <mixed.vp
        [ ! -s err ]
    done
    texts | tok -m grown --batch 4 -q >alone.vp
    expect 3 mask llara <alone.vp
    grep -q "of the first step's 4 texts none has a next one: make them with .rows passages., or give --no-next-text" err
    expect 0 mask llara --no-next-text <alone.vp
    texts >alone.jsonl
    expect 3 llara pretrain -m grown -o run alone.jsonl "${small[@]}"
    [ ! -e run/adapter_model.safetensors ]
    llara pretrain -m grown -o run alone.jsonl "${small[@]}" --next-text no
    grep -q '"event":"step"' run/log.jsonl
}

@test "all: piped gives the bytes of fused; the merged model needs no options, and an index remembers the prompt" {
    make_pairs
    for way in '' --piped; do
        # shellcheck disable=SC2086
        expect 0 llara all -m tiny -o "run$way" --text "$corpus" --words 8 --pairs pairs.jsonl "${small[@]}" $way
        [ ! -s out ]
        [ "$(grep -vc '^tok: ' err)" -eq 0 ]
    done
    cmp run/mined/1/triples.jsonl run--piped/mined/1/triples.jsonl
    [ "$(grep -c '"neg_scores"' run/mined/1/triples.jsonl)" -eq "$(wc -l <pairs.jsonl)" ]
    for stage in pretrain finetune; do
        cmp run/$stage/adapter_model.safetensors run--piped/$stage/adapter_model.safetensors
        [ "$(grep -c '"program":"step","event":"step"' run/$stage/log.jsonl)" -eq 3 ]
    done
    merge -m run/base --adapter run/pretrain --adapter run/finetune --dtype f32 --out model
    texts | tok -m model | fwd | pool >merged.vp
    texts | tok -m run/base --chat llara | fwd --adapter run/pretrain --adapter run/finetune | pool >adapters.vp
    peek merged.vp | grep -q '"attention":"causal".*"chat":"llara".*"pooling":"mean"'
    peek --jsonl --columns emb merged.vp >a
    peek --jsonl --columns emb adapters.vp >b
    paste -d '\n' a b | python3 -c '
import json, sys
rows = [json.loads(line)["emb"] for line in sys.stdin]
assert len(rows) == 8
for a, b in zip(rows[::2], rows[1::2]): assert max(abs(x - y) for x, y in zip(a, b)) < 1e-4'
    texts | tok -m model | fwd | pool | knn add index
    echo 'cat number 3' | tok -m index --lines --query | peek --jsonl --columns ids | grep -q '328,329,330,331,332,333,334,335\]'
    echo 'cat number 3' | tok -m index --lines --query | fwd | pool | knn search index -k 2 >hits
    [ "$(wc -l <hits)" -eq 2 ]
}

@test "--full: a model of all weights, and fine-tuning on it; the paper's prompt needs no tokens" {
    make_pairs
    passages --words 8 "$corpus" >passages.jsonl
    llara pretrain -m tiny -o whole passages.jsonl "${small[@]}" --full
    llara finetune -m whole -o tuned pairs.jsonl "${small[@]}"
    grep -q '"chat": "llara"' tuned/vecpipe_config.json
    llara pretrain -m tiny -o paper passages.jsonl "${small[@]}" --prompt llara-paper --next-tokens no --bag-weight 1 --bag sum
    [ ! -e paper/base ]
    grep -q '"event":"step"' paper/log.jsonl
    run ! grep -q trainable_token_indices paper/adapter_config.json
}

@test "killed and resumed gives the bytes of an undisturbed run" {
    passages --words 8 "$corpus" >passages.jsonl
    grown
    long=(-m grown passages.jsonl --steps 60 --batch 4 --length 130 --threads 1 --checkpoint-every 1 -q)
    llara pretrain -o undisturbed "${long[@]}"
    killed_and_resumed llara pretrain "${long[@]}"
    killed_and_resumed llara pretrain "${long[@]}" --piped
}

@test "wrong usage is 2, in one line; --dry-run prints what gives the same adapter" {
    while read -r line; do
        # shellcheck disable=SC2086
        refused 2 llara $line || { echo "$line"; false; }
    done <<END
pretrian
pretrain
pretrain -m tiny $corpus
pretrain -m tiny -o run $corpus --scale 3
finetune -m tiny -o run $corpus --full
finetune -m tiny -o run $corpus --text $corpus
all -m tiny -o run --text $corpus
END
    passages --words 8 "$corpus" >passages.jsonl
    expect 0 llara pretrain -m tiny -o 'a run' passages.jsonl "${small[@]}" --dry-run
    [ ! -e 'a run' ]
    bash -euo pipefail out
    llara pretrain -m tiny -o other passages.jsonl "${small[@]}"
    cmp 'a run/adapter_model.safetensors' other/adapter_model.safetensors
    expect 0 llara --help
    grep -q '^  *--lr X .*\[3e-4\]$' out
}
