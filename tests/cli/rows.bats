# pipelines/rows: usage, bad input, files that appear whole, and that the programs read what it writes.
load common

rows() { "$REPO/pipelines/rows" "$@"; }
BANKING=$REPO/tests/data/banking77.jsonl

# Rows that came before the fault, but not the line that says that they are all.
not_whole() { [ "$(grep -c '"end"' out)" -eq 0 ]; }

@test "--help, of each kind too, is on standard output" {
    expect 0 rows --help
    for kind in labelled sts beir convert passages answers; do
        grep -q "^    $kind  " out
        rows $kind --help >kind.help
        grep -q -- "--without FILE" kind.help
    done
    [ ! -s err ]
}

@test "wrong usage is 2, in one line" {
    while read -r line; do
        # shellcheck disable=SC2086
        refused 2 rows $line || { echo "$line"; false; }
    done <<END

absent
labelled --negatives 1_000
labelled --negatives -1
labelled --rows 0
labelled --seed 1.5
labelled --negative 3
labelled --by text
sts --least nan
sts --least 1e99
beir
beir one two
passages --words 0
passages --instruction x
END
}

@test "bad input is 3, with file and line, and nothing is whole" {
    while IFS='|' read -r kind line why; do
        printf '%b\n' "$line" >bad
        expect 3 rows "$kind" bad
        not_whole
        [ "$(cat err)" = "rows: $why" ] || { cat err; false; }
    done <<'END'
convert|{"query":"a"}|bad:1: no 'positive' for the query
convert|{"query":"a","pos":"b"}\n{"query":1}|bad:2: 'query' is neither a text, [instruction, text] nor {docid, title, text}
convert|{"query":"a","pos":["b","  "]}|bad:1: 'pos' is empty
convert|{"query":"a","pos":"b","pos":"c"}|bad:1: a key stands twice
convert|{"query":"a","pos":"\\ud800"}|bad:1: half a surrogate pair
convert|{"query":"a","pos":"b","score":NaN}|bad:1: NaN is not JSON
convert|{"query":"a","pos":"b","scores":[1,2]}|bad:1: 'scores': 2 scores for 1 texts
convert|{"query":"a","pos":"b","pos_ids":7}|bad:1: 'pos_ids' is not a list of 1 names
convert|["a"]|bad:1: not a JSON object
convert|{"query":"a","pos":"\xff"}|bad:1: not UTF-8
labelled|{"text":"a","label":"x"}|bad: fewer than two labels
labelled|{"text":"a","label":"x"}\n{"text":"a"}|bad:2: 'label_text' is not a text
labelled|{"text":["a","b"],"label":["x"]}|bad:1: 'label' is not a list of 2 labels, one for each text
labelled|{"text":"a","label":0}\n{"text":"b","label":1}|bad: labels are numbers, which are no texts: --label names a field with texts
sts|4.5\ta|bad:1: not a score and two texts with tabs between
sts|much\ta\tb|bad:1: 'much' is not a number
sts|nan\ta\tb|bad:1: 'nan' is not a score
sts|3\ta\tb|bad: no pair has a score of 4: see --least
passages|\xff|bad:1: not UTF-8
answers|{"prompt":"a","completion":"b","label":2}|bad:1: 'label' is neither true nor false
answers|{"chosen":"b","rejected":"c"}|bad:1: no 'prompt' for 'chosen'
answers|{"prompt":"a","chosen":"b"}|bad:1: 'rejected' is neither a text nor a list of messages
answers|{"prompt":"a","chosen":[{"role":"user","content":"b"}],"rejected":"c"}|bad:1: 'chosen' does not end with the assistant's turn
END
    expect 3 rows convert - <<<'[]'
    [ "$(cat err)" = "rows: standard input:1: not a JSON object" ]
    head -c 100000 /dev/zero | tr '\0' '[' >deep
    expect 3 rows convert deep
    [ "$(cat err)" = "rows: deep:1: too deep" ]
}

@test "--skip-bad counts bad lines, and goes on" {
    printf '%s\n' '{"query":"a"}' '{"query":"a","pos":"b"}' 'x' '' >some
    expect 0 rows convert some --skip-bad
    [ "$(sed -n '$p' out)" = '{"_vp": {"end": true, "rows": 1}}' ]
    [ "$(cat err)" = "rows: 2 bad lines left out, 0 rows that hold a text of a test set" ]
    expect 0 rows convert some --skip-bad -q
    [ ! -s err ]
}

@test "a file that is not there is 4, records that were cut off are 6" {
    refused 4 rows labelled absent
    refused 4 rows beir absent
    refused 4 rows labelled "$BANKING" --without absent
    rows convert >whole.jsonl <<<'{"query":"a","pos":"b"}'
    rows convert whole.jsonl | cmp - whole.jsonl
    head -n 2 whole.jsonl >cut.jsonl
    expect 6 rows convert cut.jsonl
    not_whole
    grep -q '^rows: cut.jsonl: .*died$' err
}

@test "--corpus appears whole or not at all; standard output is checked" {
    expect 4 rows labelled "$BANKING" --corpus absent/corpus
    not_whole
    printf '{"query":"a","pos":"b"}\nx\n' >bad
    expect 3 rows convert bad --corpus corpus
    [ -z "$(find . -name 'corpus*')" ]
    rows labelled "$BANKING" --corpus corpus >/dev/full 2>err && false
    [ "$(cat err)" = "rows: standard output: No space left on device" ]
    rows labelled "$BANKING" 2>err | head -n 1 >out
    [ ! -s err ]
}

@test "tok, mix and knn read what it writes" {
    export VP_MODEL=$PWD/tiny
    mkdir tiny
    cp "$REPO"/tests/golden/llama/{config.json,model.safetensors} "$REPO/tests/pipelines/tokenizer.json" tiny/
    rows labelled "$BANKING" --negatives 3 --instruction 'Same intent:' --corpus corpus.jsonl >rows.jsonl
    mix rows.jsonl --batch 6 --steps 7 | tok | mask pairs --negatives 3 | peek --jsonl >seen
    [ "$(grep -c '"role":0' seen)" -eq 42 ]
    [ "$(grep -c '"role":2' seen)" -eq 126 ]
    tok -q --text corpus.jsonl | fwd --pool mean | knn add -q corpus.idx
    [ "$(knn export corpus.idx | grep -c class)" -eq 42 ]
    rows labelled "$BANKING" | head -n 3 >cut.jsonl
    expect 6 tok --batch 1 cut.jsonl
}

@test "a given negative is not the query, a positive or another one, and its score goes with it" {
    echo '{"query":"Q","pos":["A","ｂ"],"neg":["a ","n1","N1","q","B","n2"],"pos_scores":[9,8],"neg_scores":[1,2,3,4,5,6]}' >e.jsonl
    expect 0 rows convert e.jsonl
    grep -q '"neg": \["n1", "n2"\].*"neg_scores": \[2, 6\]' out
}

@test "labels and texts that differ in case, blanks and NFKC are the same" {
    printf '%s\n' '{"text":"x y","label":"Joy"}' '{"text":"ｘ  Y","label":"joy"}' '{"text":"z","label":"joy "}' \
        '{"text":"w","label":"anger"}' '{"text":"v","label":"anger"}' >l.jsonl
    expect 0 rows labelled --by example --corpus c.jsonl l.jsonl
    [ "$(wc -l <c.jsonl)" -eq 4 ]
    grep -q '"query": "x y", "pos": \["z"\].*"class": "Joy"' out
}

@test "training data: a set's negatives and scores come from mine-negs, by vectors and BM25" {
    mkdir tiny
    cp "$REPO"/tests/golden/llama/{config.json,model.safetensors} "$REPO/tests/pipelines/tokenizer.json" tiny/
    for i in $(seq 0 199); do # of so many parts some are held out, one in a hundred
        echo "{\"query\":\"where is river $i\",\"positive\":\"the river $i runs to the sea of $((i % 9))\",\"source\":\"s\",\"part\":\"$i\"}"
    done >pairs.jsonl
    echo '{"query":"who swims","positive":"a fish swims","negative":["a stone sinks","a bird flies"],"source":"j","part":"0"}' >>pairs.jsonl
    expect 0 "$REPO/scripts/mine-set" tiny pairs.jsonl set.jsonl
    [ ! -s err ] && [ ! -e set.jsonl.mining ]
    python3 - <<'PY'
import json
rows, held = ([json.loads(line) for line in open(f)] for f in ("set.jsonl", "set.dev.jsonl"))
texts = {r["positive"]: r["query"] for r in map(json.loads, open("pairs.jsonl"))}
parts = {r["query"] for r in held}
assert held and len(rows) > 150 and not parts & {r["query"] for r in rows}, (len(rows), len(held))
for r in rows + held:
    n = len(r["negative"])
    assert n and len(r["scores"]) == len(r["dense"]) == len(r["bm25"]) == n + 1, r
    assert r["positive"] not in r["negative"] and r["query"] not in r["negative"]
for r in rows:
    assert not {texts.get(t) for t in r["negative"]} & parts, r # no passage of a held-out row
    if r["source"] == "s": assert all(d < 0.95 * r["dense"][0] + 1e-3 for d in r["dense"][1:]), r
[judged] = [r for r in rows if r["source"] == "j"]
assert sorted(judged["negative"]) == ["a bird flies", "a stone sinks"], judged
PY
    before=$(sha256sum set.jsonl set.dev.jsonl)
    "$REPO/scripts/mine-set" tiny pairs.jsonl set.jsonl
    [ "$(sha256sum set.jsonl set.dev.jsonl)" = "$before" ]
    expect 2 "$REPO/scripts/mine-set" tiny pairs.jsonl
}
