# Generation behind cached texts (gen --doc-cache, --query-cache) and pipelines/rag: what must be equal, what is refused,
# every mode from question to answer. Arithmetic is tests/unit/test_cache's.
# also under sanitizers
load common

rag() { "$REPO/pipelines/rag" "$@"; }
prompts() { "$REPO/pipelines/prompts" "$@"; }

# A golden decoder of 256 positions with a tokenizer that puts BOS before texts, and two texts.
setup() {
    mkdir tiny
    cp "$REPO"/tests/golden/llama/{config.json,model.safetensors} "$REPO/tests/pipelines/tokenizer.json" tiny/
    export VP_MODEL=tiny
    printf '{"id":"a","text":"some words that stand before"}\n{"id":"b","text":"a question, 77 times"}\n' >texts.jsonl
}

# cached ATTENTION NAME: the two texts as an index and as a stream
cached() {
    tok -q --text texts.jsonl | fwd --attention "$1" --pool mean --emit emb,kv >"$2.vp"
    knn add -q "$2.idx" "$2.vp"
}
greedy() { gen --greedy --max-tokens 6 --logprobs "$@"; }
field() { python3 -c 'import json, sys; [print(json.dumps(json.loads(l)[sys.argv[1]])) for l in open(sys.argv[2])]' "$@"; }

@test "behind a text of a causal pass the answer is that of the whole text; of a bidirectional one it is another" {
    cached causal causal
    cached bi bi
    echo '{"prompt":"some words that stand before, and go on"}' | greedy >whole
    echo '{"prompt":", and go on","cache":[{"doc":"a"}]}' >prompt
    greedy --doc-cache causal.idx prompt >same
    greedy --doc-cache bi.idx prompt >other
    python3 - <<'PY'
import json
whole, same, other = ([p for _, p in json.loads(open(f).readline())["logprobs"]] for f in ("whole", "same", "other"))
assert max(abs(a - b) for a, b in zip(whole, same)) < 5e-3, (whole, same)
assert abs(whole[0] - other[0]) > 1e-2, (whole, other)
PY
    [ "$(field text whole)" = "$(field text same)" ]
}

@test "a text continues alike from the index and from the stream, alone and beside others, however it is stored" {
    cached bi it
    for cache in '{"doc":"a"}' '{"query":"a"}' '{"doc":"a"},{"query":"b"}' '{"query":"a"},{"doc":"b"}' '{"query":"a"},{"query":"b"}' \
        '{"doc":"b"},{"doc":"b"},{"doc":"a"}' ''; do
        echo "{\"prompt\":\" and more\",\"cache\":[$cache]}"
    done >all
    greedy --doc-cache it.idx --query-cache it.vp all >together
    field logprobs together >figures
    [ "$(sed -n 1p figures)" = "$(sed -n 2p figures)" ]
    [ "$(sed -n 3p figures)" = "$(sed -n 4p figures)" ]
    [ "$(sed -n 3p figures)" = "$(sed -n 5p figures)" ]
    [ "$(sort -u figures | wc -l)" -eq 4 ]
    for batch in 2 7; do greedy --batch $batch --threads 2 --doc-cache it.idx --query-cache it.vp all | cmp - together; done
    while read -r line; do greedy --doc-cache it.idx --query-cache it.vp <<<"$line"; done <all | cmp - together
    zstd -q <it.vp >packed.vp
    greedy --doc-cache it.idx --query-cache packed.vp all | cmp - together
    knn add -q --kv-zstd packed.idx it.vp
    greedy --doc-cache packed.idx --query-cache it.vp all | cmp - together
    rm -rf it.idx
    grep -v doc all | greedy --query-cache it.vp | cmp - <(grep -v '"doc"' together)
}

@test "--rope-shift moves the second text, and nothing where there is one" {
    cached bi it
    echo '{"prompt":" and more","cache":[{"doc":"a"},{"query":"b"}]}' >two
    echo '{"prompt":" and more","cache":[{"doc":"a"}]}' >one
    greedy --doc-cache it.idx --query-cache it.vp two >left
    greedy --doc-cache it.idx --query-cache it.vp --rope-shift two >moved
    run ! cmp -s left moved
    cmp <(greedy --doc-cache it.idx one) <(greedy --doc-cache it.idx --rope-shift one)
}

@test "a prompt behind texts: no BOS of its own, a chat as well, and the context counts them" {
    cached causal it
    echo '{"prompt":"","cache":[{"doc":"a"}]}' | expect 3 gen --doc-cache it.idx
    grep -q 'standard input:1: the prompt has no tokens' err
    echo '{"prompt":["go on"],"cache":[{"doc":"a"}]}' | greedy --chat grit --doc-cache it.idx >chat
    printf '%s\n' '{"prompt":"<|user|>\ngo on\n<|assistant|>\n","cache":[{"doc":"a"}]}' | greedy --doc-cache it.idx >plain
    [ "$(field logprobs chat)" = "$(field logprobs plain)" ]
    long=$(python3 -c 'print(" some" * 60)')
    echo "{\"prompt\":\"$long\",\"cache\":[{\"doc\":\"a\"}]}" >prompt
    expect 0 gen --greedy --max-tokens 300 --doc-cache it.idx prompt
    [ "$(field finish out)" = '"context"' ]
    python3 -c 'import json; print(json.dumps({"prompt": " go on", "cache": [{"doc": "a"}] * 40}))' >many
    refused 3 gen --doc-cache it.idx many
    grep -q 'cached ones; the model has 256 positions$' err
}

@test "what a prompt names and is not there is refused with its line, or skipped and counted" {
    cached bi it
    good='{"prompt":" and","cache":[{"doc":"a"}]}'
    while IFS='|' read -r cache why; do
        printf '%s\n' "$good" "{\"prompt\":\" and\",\"cache\":$cache}" "$good" >mixed
        expect 3 gen --max-tokens 2 --doc-cache it.idx --query-cache it.vp mixed
        grep -qF "gen: mixed:2: $why" err || { cat err; false; }
        [ "$(wc -l <out)" -eq 1 ]
        expect 0 gen --max-tokens 2 --skip-bad --doc-cache it.idx --query-cache it.vp mixed
        [ "$(wc -l <out)" -eq 2 ]
        grep -q '^gen: 1 bad records were skipped$' err
    done <<'END'
[{"doc":"c"}]|no document 'c' in it.idx
[{"query":"c"}]|no query 'c' in it.vp
[{"doc":"a"},{"query":"c"}]|no query 'c' in it.vp
"a"|'cache' is not a list of at most 256 texts
{"doc":"a"}|'cache' is not a list of at most 256 texts
["a"]|'cache' is not a list of {"doc": ID} and {"query": ID}
[{"doc":1}]|'cache' is not a list of {"doc": ID} and {"query": ID}
[{"text":"a"}]|'cache' is not a list of {"doc": ID} and {"query": ID}
[{"doc":"a","query":"a"}]|'cache' is not a list of {"doc": ID} and {"query": ID}
END
    refused 2 gen --query-cache it.vp <<<"$good"
    grep -q -- "'cache' names a document: --doc-cache says where it is" err
    refused 2 gen --doc-cache it.idx <<<'{"prompt":" and","cache":[{"query":"a"}]}'
    refused 2 gen --doc-cache it.idx --lines <<<and
    refused 2 gen --query-cache it.vp --lines <<<and
    expect 0 gen --max-tokens 2 --doc-cache it.idx <<<'{"prompt":"and","cache":null}'
}

@test "caches of another model, of other adapters, tokenizer or space are refused, with both named" {
    cached bi it
    prompt='{"prompt":" and","cache":[{"doc":"a"}]}'
    cp -r tiny other
    cp "$REPO/tests/golden/mistral/"{config.json,model.safetensors} other/
    refused 3 gen -m other --doc-cache it.idx <<<"$prompt"
    grep -Eq "^gen: it.idx: keys and values of another model: fingerprint [0-9a-f]{32}, .*/other has [0-9a-f]{32}$" err
    refused 3 gen -m other --query-cache it.vp <<<"$prompt"
    grep -q '^gen: it.vp: keys and values of another model' err
    refused 3 gen --adapter "$REPO/tests/golden/llama/adapter" --doc-cache it.idx <<<"$prompt"
    grep -Eq "^gen: it.idx: keys and values of other adapters: none, .*/tiny has [0-9a-f]{32}$" err
    cp -r tiny spelled
    python3 - <<'PY'
import json
t = json.load(open("spelled/tokenizer.json"))
vocab = t["model"]["vocab"]
vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
json.dump(t, open("spelled/tokenizer.json", "w"))
PY
    refused 3 gen -m spelled --doc-cache it.idx <<<"$prompt"
    grep -q 'its tokens are those of another tokenizer' err
    cached causal causal
    refused 3 gen --doc-cache it.idx --query-cache causal.vp <<<"$prompt"
    grep -Eq '^gen: it.idx: vectors of encoder.space [0-9a-f]{32}, causal.vp has [0-9a-f]{32}$' err
    tok -q texts.jsonl | fwd --adapter "$REPO/tests/golden/llama/adapter" --pool mean --emit emb,kv >adapted.vp
    echo '{"prompt":" and","cache":[{"query":"a"}]}' |
        expect 0 gen --adapter "$REPO/tests/golden/llama/adapter" --max-tokens 2 --query-cache adapted.vp
}

@test "damaged, cut off and foreign caches are refused" {
    cached bi it
    doc='{"prompt":" and","cache":[{"doc":"a"}]}' query='{"prompt":" and","cache":[{"query":"b"}]}'
    refused 4 gen --doc-cache nowhere <<<"$doc"
    refused 4 gen --query-cache nowhere <<<"$query"
    head -c 3000 it.vp >cut.vp
    refused 6 gen --query-cache cut.vp <<<"$query"
    python3 - <<'PY'
data = bytearray(open("it.vp", "rb").read())
data[len(data) // 2] ^= 1
open("flipped.vp", "wb").write(data)
PY
    refused 3 gen --query-cache flipped.vp <<<"$query"
    tok -q texts.jsonl | fwd --attention bi --pool mean >bare.vp
    refused 3 gen --query-cache bare.vp <<<"$query"
    grep -q "no column 'k'" err
    cat it.vp it.vp >twice.vp
    refused 3 gen --query-cache twice.vp <<<'{"prompt":" and","cache":[{"query":"c"}]}'
    grep -q "'[ab]' is there twice" err
    knn add -q bare.idx bare.vp
    refused 3 gen --doc-cache bare.idx <<<"$doc"
    file=$(find it.idx -name 'kv-*' -size +0 | head -n 1)
    cp -r it.idx short.idx
    truncate -s 100 "short.idx/${file##*/}"
    refused 3 gen --doc-cache short.idx <<<"$doc"
    tr '\000-\377' '\001-\377\000' <"$file" >turned
    cp turned "$file"
    refused 3 gen --doc-cache it.idx <<<"$doc"
    touch empty.vp
    refused 6 gen --query-cache empty.vp <<<"$query"
}

# ---- pipelines/rag ----
ask_setup() {
    cp "$REPO/examples/corpus.jsonl" corpus.jsonl
    printf '%s\n' '{"id":"q1","text":"my bike has a puncture","answers":["tyre"]}' '{"id":7,"text":"how do tides work","answers":["x"]}' >questions.jsonl
}

@test "every mode from questions to answers; the prompts are the table's" {
    ask_setup
    rag index -q -o run corpus.jsonl
    rag index -q -o pair corpus.jsonl --cache query-doc
    for mode in none:query none:doc doc query query-doc doc-query; do
        cache=${mode%:*} first=${mode#*:} folder=run
        [ "$cache" != query-doc ] || folder=pair
        [ "$cache" = none ] || first=query
        expect 0 rag ask -q -o $folder questions.jsonl --cache "$cache" --first "$first"
        [ ! -s err ] && [ "$(wc -l <out)" -eq 2 ]
        mv out "$mode"
    done
    rag ask -q -o run questions.jsonl --cache none --k 0 >alone
    python3 - <<'PY'
import json
texts = {r["id"]: f"{r['title']} {r['text']}" for r in map(json.loads, open("corpus.jsonl"))}
after_doc = "Answer the prior query while optionally using the context prior to it\n<|assistant|>\nThe answer is"
after_query = "Optionally using the prior context answer the query prior to it\n<|assistant|>\nThe answer is"
want = {
    "none:query": (None, "<|user|>\n{q}\n\n{d}\n\n" + after_query),
    "none:doc": (None, "<|user|>\n{d}\n\n{q}\n\n" + after_doc),
    "doc": ("d", "\n<|user|>\n{q}\n\n" + after_doc),
    "query": ("q", "\n<|user|>\n{d}\n\n" + after_query),
    "query-doc": ("qd", "\n<|user|>\n" + after_query),
    "doc-query": ("dq", "\n<|user|>\n" + after_doc),
    "alone": (None, "<|user|>\n{q}\n<|assistant|>\nThe answer is"),
}
for mode, (cache, prompt) in want.items():
    rows = [json.loads(l) for l in open(mode, encoding="utf-8")]
    assert [r["id"] for r in rows] == ["q1", "7"] and rows[0]["answers"] == ["tyre"], rows
    for r in rows:
        docs = r.get("docs", [])
        assert len(docs) == (mode != "alone"), r
        text = texts[docs[0]] if docs else ""
        assert r["prompt"] == prompt.replace("{q}", r["question"]).replace("{d}", text), (mode, r["prompt"])
        item = {"q": {"query": r["id"]}, "d": {"doc": docs[0] if docs else None}}
        assert r.get("cache") == ([item[c] for c in cache] if cache else None), (mode, r)
        assert 0 < r["tokens"] <= 16, r
PY
    score match doc | grep -q '^match: 2 texts'
}

@test "with a causal embedding, caching the document or the question changes nothing but roundings" {
    ask_setup
    rag index -q -o run corpus.jsonl --attention causal
    for cache in doc query; do
        rag ask -q -o run questions.jsonl --attention causal --cache $cache --max-tokens 8 >cached
        python3 - $cache >whole <<'PY'
import json, sys
texts = {r["id"]: f"{r['title']} {r['text']}" for r in map(json.loads, open("corpus.jsonl"))}
for r in map(json.loads, open("cached", encoding="utf-8")):
    before = {"doc": texts[r["docs"][0]], "query": r["question"]}
    print(json.dumps({"prompt": "<|embed|>\n" + before[sys.argv[1]] + r["prompt"]}))
PY
        gen --greedy --max-tokens 8 whole >uncached
        diff <(field text cached) <(field text uncached)
    done
    rag index -q -o both corpus.jsonl
    rag ask -q -o both questions.jsonl --max-tokens 8 >other
    run ! cmp -s <(field text other) <(field text uncached)
}

@test "--dry-run prints pipelines that give the same answers" {
    ask_setup
    expect 0 rag index -o 'a run' corpus.jsonl --dry-run
    [ ! -e 'a run' ]
    bash -euo pipefail out 2>err
    knn verify 'a run/index'
    for cache in none doc query doc-query; do
        expect 0 rag ask -o 'a run' questions.jsonl --cache $cache --dry-run
        bash -euo pipefail out >printed
        rag ask -o 'a run' questions.jsonl --cache $cache --show 2>shown | cmp - printed
        grep -q "^ *gen -m 'a run/index' --bos --greedy --max-tokens 16" shown
    done
    expect 0 rag ask -o absent questions.jsonl --dry-run
}

@test "the index takes what is new; several documents; questions as lines" {
    ask_setup
    head -n 50 corpus.jsonl >part.jsonl
    rag index -q -o run part.jsonl --length 24
    rag index -q -o run corpus.jsonl --length 24
    [ "$(knn stats --json run/index | python3 -c 'import json; print(json.load(__import__("sys").stdin)["rows"])')" -eq 60 ]
    rag index -q -o run corpus.jsonl --length 24
    rag ask -q -o run questions.jsonl --k 2 --cache doc-query >two
    python3 - <<'PY'
import json
for r in map(json.loads, open("two", encoding="utf-8")):
    assert len(r["docs"]) == 2 and r["cache"] == [*({"doc": d} for d in r["docs"]), {"query": r["id"]}], r
PY
    knn search run/index --text --hits 2 run/queries.vp | prompts questions.jsonl --k 2 --first doc >fresh
    [ "$(sed 1d fresh | grep -c 'user|>\\n[^\\]*\\n\\n[^\\]*\\n\\n[^\\]*\\n\\nAnswer the prior')" -eq 2 ]
    printf 'my bike has a puncture\nhow do tides work\n' >lines
    rag ask -q -o run lines --lines --cache doc-query --rope-shift yes >shifted
    rag ask -q -o run lines --lines --cache doc-query >left
    [ "$(field id left | tr -d '"\n')" = 01 ]
    [ "$(field docs left)" = "$(field docs shifted)" ]
    run ! cmp -s left shifted
    rag ask -q -o run lines --lines --batch 2 --threads 2 --cache doc-query | cmp - left
}

@test "wrong usage and wrong input are refused" {
    ask_setup
    while read -r status line; do
        # shellcheck disable=SC2086
        refused "$status" rag $line || { echo "$line"; false; }
    done <<END
2
2 answer
2 ask -o run
2 ask questions.jsonl
2 ask -o run questions.jsonl corpus.jsonl
2 ask -o run questions.jsonl --cache both
2 ask -o run questions.jsonl --resume
2 index -o run corpus.jsonl --lines
2 index -o run corpus.jsonl --k 3
2 ask -o run --lines /dev/null
2 ask -o run questions.jsonl --cache doc --k 0
END
    rag index -q -o run corpus.jsonl
    refused 3 rag ask -o run questions.jsonl --cache query-doc
    grep -q 'run/index was made for --cache doc and doc-query' err
    rag index -q -o plain corpus.jsonl --cache none
    expect 3 rag ask -q -o plain questions.jsonl --cache doc
    expect 0 rag ask -q -o plain questions.jsonl --cache query
    expect 4 rag ask -q -o run absent.jsonl
    echo '{"text":1}' >bad.jsonl
    expect 3 rag ask -q -o run bad.jsonl
    expect 4 rag ask -q -o nowhere questions.jsonl
}

@test "prompts: bad hits and questions are refused with their line" {
    printf '%s\n' '{"id":"q","text":"what"}' >questions
    printf '%s\n' '{"query":"q","id":"d","text":"it"}' >hits
    prompts questions <hits >out
    [ "$(wc -l <out)" -eq 3 ]
    refused 2 prompts
    refused 2 prompts questions --k x
    refused 2 prompts questions --cache doc --k 0
    while IFS='|' read -r question hit why; do
        echo "$question" >bad
        expect 3 prompts bad <<<"$hit"
        [ "$(cat err)" = "prompts: $why" ] || { cat err; false; }
        run ! grep -q '"end"' out
    done <<'END'
{"id":"q"}|{"query":"q","id":"d","text":"it"}|bad:1: no 'text', a text
{"id":[],"text":"x"}|{"query":"q","id":"d","text":"it"}|bad:1: 'id' is neither a text nor a whole number
{"id":"q","text":"x"}|{"query":"q","text":"it"}|standard input:1: no 'id', a text
{"id":"q","text":"x"}|{"query":"r","id":"d","text":"it"}|question 'q' has no hits, or they do not come in the order of the questions
{"id":"q","text":"x"}|{"query":"q","id":"d"}|a hit of question 'q' has no text: knn search --text, of an index with texts (tok --text)
END
    printf '%s\n' '{"query":"q","id":"d","text":"it"}' '{"query":"r","id":"d","text":"it"}' | expect 3 prompts questions
    expect 4 prompts absent <hits
}

@test "texts and prompts are those of GRIT's format, BOS as well where the tokenizer puts none" {
    need_models
    [[ $VP_BIN != *-sanitize/bin ]] || skip "nothing that the tiny model does not reach"
    export VP_MODEL=$SMOLLM2
    echo '{"id":"q","text":"what stands before?"}' >questions.jsonl
    rag index -q -o run texts.jsonl --cache doc
    tok -q --chat grit --text texts.jsonl | fwd -q --attention bi --pool mean --emit emb,kv | knn add -q own.idx
    diff <(knn export run/index --jsonl) <(knn export own.idx --jsonl)
    rag ask -q -o run questions.jsonl --k 0 --cache none --begin '' --max-tokens 6 >asked
    gen -q --chat grit --greedy --max-tokens 6 <<<'{"id":"q","prompt":"what stands before?"}' >said
    [ "$(field text asked)" = "$(field text said)" ]
}

@test "ask knows model, adapter and settings from the index; keys and values as bytes; their size in all is said" {
    echo '{"id":"q","text":"a question"}' >questions.jsonl
    cp -r "$REPO/tests/golden/llama/adapter" adapter
    VP_MODEL=tiny rag index -o run texts.jsonl --cache doc --adapter adapter --attention bi --kv i8 --kv-zstd yes 2>err
    grep -q "^knn: keys and values: [0-9]* bytes a token, .* MiB in all$" err
    knn stats run/index | grep -q '^keys/values  i8 zstd, '
    rag ask -q -o run questions.jsonl -m tiny --adapter adapter --attention bi --max-tokens 4 >named
    unset VP_MODEL
    rag ask -q -o run questions.jsonl --max-tokens 4 | cmp - named
    VP_MODEL=absent rag ask -q -o run questions.jsonl --max-tokens 4 | cmp - named
    refused 3 rag index -o run texts.jsonl -m tiny --cache query-doc
    [ "$(cat err)" = "rag: run/index was made for --cache doc and doc-query" ]
}
