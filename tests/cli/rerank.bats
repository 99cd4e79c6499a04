# gen rerank: scores against hidden states of fwd and the head's row, order, members, queries' texts, what is refused.
# also under sanitizers
load common

# A golden decoder, an index of six records (two of the same text), queries, and what the search finds.
setup() {
    mkdir tiny
    cp "$REPO"/tests/golden/llama/{config.json,model.safetensors} "$REPO/tests/pipelines/tokenizer.json" tiny/
    export VP_MODEL=tiny
    local n=0 text
    for text in 'the end of it' 'in the beginning' 'same words' 'and to the point, on and on' 'same words' 'tëxt'; do
        echo "{\"id\":\"d$((++n))\",\"kind\":[$n,1e1],\"text\":\"$text\"}"
    done >corpus
    printf '%s\n' '{"id":"q1","text":"what was there"}' '{"id":7,"text":"the \"second\" one"}' >queries
    tok -q --text corpus | fwd | pool mean | knn add -q index
    tok -q --query --text queries | fwd | pool mean | knn search index --text --meta >hits
}

short='Query {query} passage {title} {text} so'
rerank() { gen rerank --prompt "$short" --yes ' the' "$@"; }

@test "the score is the logit of the token; the order, ties by the rank before" {
    expect 0 rerank hits
    [ ! -s err ]
    python3 - <<'PY' >prompts
import json
hits = [json.loads(line) for line in open("hits")]
for h in hits:
    print(json.dumps({"id": h["query"] + h["id"], "text": f'Query {h["query_text"]} passage {h["text"]} so'}))
PY
    tok -q prompts | fwd --attention causal | pool last --no-normalize | peek --jsonl --columns id,emb >last
    python3 - <<'PY'
import json, struct
token = json.load(open("tiny/tokenizer.json"))["model"]["vocab"]["\u0120the"]
with open("tiny/model.safetensors", "rb") as f:
    size = struct.unpack("<Q", f.read(8))[0]
    begin = json.loads(f.read(size))["lm_head.weight"]["data_offsets"][0]
    f.seek(8 + size + begin + token * 64 * 4)
    row = struct.unpack("<64f", f.read(64 * 4))
logit = {r["id"]: sum(x * y for x, y in zip(r["emb"], row)) for r in map(json.loads, open("last"))}
before, after = ([json.loads(line) for line in open(path)] for path in ("hits", "out"))
assert len(after) == 12 and [h["rank"] for h in after] == [1, 2, 3, 4, 5, 6] * 2
assert [h["query"] for h in after] == ["q1"] * 6 + ["7"] * 6
for h in after:
    assert abs(h["score"] - logit[h["query"] + h["id"]]) < 1e-5, (h, logit)
rank = {(h["query"], h["id"]): h["rank"] for h in before}
keys = [(h["query"] != "q1", -h["score"], rank[h["query"], h["id"]]) for h in after]
assert keys == sorted(keys) and len({k[1] for k in keys}) == 10, keys # one tie a query
rest = lambda h: json.dumps({k: v for k, v in h.items() if k not in ("rank", "score")}, sort_keys=True)
assert sorted(map(rest, after)) == sorted(map(rest, before))
PY
    [ "$(grep -c '"meta":{"kind":\[[0-9],1e1\]}' out)" -eq 12 ]
}

@test "a score depends on query and passage alone" {
    for compute in f32 bf16 i8; do
        rerank --compute $compute hits >want
        rerank --compute $compute --threads 3 hits | cmp - want
        while read -r line; do rerank --compute $compute <<<"$line"; done <hits >alone
        diff <(sed 's/"rank":[0-9]*,//' want | sort) <(sed 's/"rank":[0-9]*,//' alone | sort)
    done
}

@test "-k: the first hits; --queries: texts that the hits lack; title, and no title" {
    rerank hits >all
    rerank -k 2 hits >out
    [ "$(grep -o '"query":"[^"]*","rank":[0-9]*' out | tr '\n' ' ')" = \
        '"query":"q1","rank":1 "query":"q1","rank":2 "query":"7","rank":1 "query":"7","rank":2 ' ]
    sed 's/,"query_text":.*/}/' hits >bare
    rerank --queries queries bare | cmp - <(sed 's/,"query_text":.*,"text"/,"text"/' all)
    printf '%s\n' '{"query":"q","id":"d","text":"x"}' '{"query":"q","id":"e","text":"x","title":"A"}' \
        '{"query":"q","id":"f","text":"A x"}' | sed 's/}/,"query_text":"y"}/' >titles
    rerank titles >out
    python3 - <<'PY'
import json
score = {h["id"]: h["score"] for h in map(json.loads, open("out"))}
assert score["e"] == score["f"] != score["d"], score
PY
}

@test "logits that are not finite leave their hit without a score, the last of its query; the others stand" {
    printf '{"query":"q%s","id":"%s","text":"%s","query_text":"%s"}\n' 1 c 'the @ point' 'and so' 1 b 'to the end' 'and so' \
        1 a '@@' 'and so' 1 d 'a point' 'and so' 2 e 'of it' 'what @ was' 2 f 'in it' 'what @ was' 3 g words on >some
    rerank some >before
    poison @
    expect 3 rerank some
    sed 's/.*"rank":\([0-9]*\),"id":"\(.\)".*/\1\2/' out | tr '\n' ' ' | grep -qxE '(1b 2d|1d 2b) 3c 4a 1e 2f 1g '
    [ "$(sed -n 's/.*"id":"\(.\)","score":null,.*/\1/p' out | tr -d '\n')" = caef ]
    judged() { grep -E '"id":"[bdg]"' "$1" | grep -o '"id.*'; }
    diff <(judged out) <(judged before)
    printf "gen: some:%d: the model's logits are not finite\n" 3 5 6 1 | cmp - err
    printf 'q1\t%s\t1\n' b a >qrels # by score they are the last ones too, as ids fall
    score retrieval -q --run run qrels out >figures
    [ "$(awk '{ print $4 $3 }' run | tr '\n' ' ')" = "$(sed -n '/"q1"/s/.*"rank":\([0-9]*\),"id":"\(.\)".*/\1\2/p' out | tr '\n' ' ')" ]
    echo '{"query":' >>some # another error does not hide the first
    expect 3 rerank some
    grep -qx "gen: some:1: the model's logits are not finite" err
    tail -n 1 err | grep -q '^gen: some:8: not JSON'
}

@test "a query and a text are cut to characters" {
    echo '{"query":"q","id":"d","text":"ëëëë","query_text":"öööö"}' >long
    echo '{"query":"q","id":"d","text":"ëë","query_text":"öö"}' >short
    score() { grep -o '"score":[^,]*'; }
    [ "$(rerank --max-chars 2 long | score)" = "$(rerank short | score)" ]
    [ "$(rerank --max-chars 3 long | score)" != "$(rerank short | score)" ]
}

@test "the prompt is that of GritLM's script" {
    q='Given a query and a passage, judge whether the passage is relevant to the query or not.'
    a='Answer with yes if the passage is relevant to the query, and no otherwise.'
    printf -v prompt '<|user|>\n%s\n\nQuery: {query}\nPassage: {title} {text}\n\n%s\n<|assistant|>\nAnswer:' "$q" "$a"
    sed -i 's/"max_position_embeddings": 256/"max_position_embeddings": 1024/' tiny/config.json
    gen rerank --yes ' the' hits >out
    gen rerank --yes ' the' --prompt "$prompt" hits | cmp - out
}

@test "from the search to figures" {
    printf '%s\n' q1 7 | sed "s/$/\td4\t1/" >qrels
    tok -q --query --text queries | fwd | pool mean | knn search index -k 4 --text | rerank >again
    expect 0 score retrieval qrels again
    rerank </dev/null | cmp - /dev/null
}

@test "what is refused, and where" {
    refused 2 gen rerank hits
    grep -qxF "gen: --yes ' yes' is not one token after the prompt" err
    refused 2 gen rerank --prompt 'only {query}' hits
    grep -qF -- '--prompt has no {text}' err
    refused 2 gen rerank --prompt '{text}' hits
    refused 2 gen rerank -k 0 hits
    refused 2 gen rerank hits hits
    refused 4 gen rerank none
    refused 4 gen rerank --prompt "$short" --yes ' the' --queries none hits
    local line message
    while IFS='|' read -r line message; do
        { head -n 3 hits; echo "$line"; } >bad
        expect 3 rerank bad
        grep -qF "gen: bad:4: $message" err || { cat err; false; }
    done <<'END'
{"query":"q","id":"d"}|no 'text', a string: knn search --text gives it
{"query":"q","text":"d","query_text":"a"}|no 'id', a string
{"id":"q","text":"d","query_text":"a"}|no 'query', a string
{"query":"q","id":"d","text":"x","title":1,"query_text":"a"}|'title' is not a string
{"query":"q","id":"d","text":"x"}|no text of the query
[1]|not a JSON object
{"query":|not JSON
END
    printf '{"query":"q","id":"%s","text":"%s","query_text":"a"}\n' a x b "$(printf 'abc %.0s' $(seq 140))" >long
    expect 3 rerank long
    grep -q '^gen: long:2: the prompt has [0-9]* tokens, the model has 256 positions$' err
    [ ! -s out ]
    cat queries queries >twice
    expect 3 rerank --queries twice hits
    grep -q "^gen: twice:3: the id 'q1' is there already$" err
}
