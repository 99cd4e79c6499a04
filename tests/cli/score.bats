# score: tasks from files and pipes, its options, and what it refuses. The arithmetic is tests/unit/test_score's.
# also under sanitizers
load common

setup() {
    printf 'query-id\tcorpus-id\tscore\n1\ta\t2\n1\tb\t1\n2\tc\t1\n' >qrels.tsv
    printf '{"query":"%s","rank":%s,"id":"%s","score":%s}\n' 1 1 a 0.9 1 2 x 0.8 1 3 b 0.7 >hits.jsonl
    printf '1\tone\tother\n0\ttwo\tthings\n' >gold.tsv
}

# A stream of two rows.
vectors() {
    sed 's/#.*//' "$REPO/tests/streams/minimal.hex" | tr -d ' \n' | tr a-f A-F | basenc --base16 -d |
        fwd -m "$REPO/tests/golden/bert" | pool "$@"
}

@test "hits from a pipe and from a file, as a table and as JSON" {
    score retrieval qrels.tsv <hits.jsonl >piped
    score retrieval qrels.tsv hits.jsonl >table
    diff piped table
    score retrieval - hits.jsonl <qrels.tsv | diff - table
    [ "$(head -1 table)" = "retrieval: 2 queries" ]
    grep -q '^  ndcg_at_10  *47.51$' table
    grep -q '^  queries_without_hits  *1$' table
    run ! grep -q unjudged table
    score retrieval --json qrels.tsv hits.jsonl | python3 -c '
import json, sys
o = json.load(sys.stdin)
assert o["task"] == "retrieval" and o["main_score"] == o["ndcg_at_10"] and o["queries"] == 2, o
assert abs(o["map"] - (1 + 2 / 3) / 4) < 1e-8 and o["recall_at_10"] == 0.5 and o["queries_without_hits"] == 1, o'
}

@test "intervals come of the seed alone" {
    score retrieval --bootstrap 200 qrels.tsv hits.jsonl >a
    score retrieval --bootstrap 200 --seed 0 qrels.tsv hits.jsonl | diff a -
    grep -q '^retrieval: 2 queries, 95 % intervals$' a
    grep -q '^  ndcg_at_10  *47.51  \[  0.00,  95.02\]$' a
}

@test "the difference to another system" {
    grep -v '"x"' hits.jsonl >better.jsonl
    expect 0 score retrieval --bootstrap 100 --against hits.jsonl qrels.tsv better.jsonl
    grep -q '^difference: 2 queries, 95 % intervals$' out
    sed -n '/^difference/,$p' out | grep -q '^  ndcg_at_10  *2.49  \[  0.00,   4.98\]$'
    score retrieval --json --against hits.jsonl qrels.tsv hits.jsonl | tail -1 | grep -q '^{"task":"difference","main_score":0,'
    refused 2 score pairs --against hits.jsonl gold.tsv a b
    refused 3 score retrieval --against /dev/null qrels.tsv hits.jsonl
}

@test "a TREC run, whole or not at all" {
    score retrieval --run run.txt qrels.tsv hits.jsonl >/dev/null
    printf '1 Q0 %s %s %s vecpipe\n' a 1 0.9 x 2 0.8 b 3 0.7 | diff - <(sed 's/0.90*1* /0.9 /; s/0.80*1* /0.8 /' run.txt)
    sed 's/"x"/"x y"/' hits.jsonl >blank.jsonl
    refused 3 score retrieval --run other.txt qrels.tsv blank.jsonl
    [ ! -e other.txt ]
    refused 4 score retrieval --run missing/run.txt qrels.tsv hits.jsonl
}

@test "pairs of vectors" {
    vectors >a.vp
    expect 0 score pairs gold.tsv a.vp a.vp
    grep -q '^  cosine_ap  *[0-9.]*$' out
    vectors | expect 0 score pairs gold.tsv - a.vp
    head -1 gold.tsv >short.tsv
    refused 3 score pairs short.tsv a.vp a.vp
    grep -q 'a.vp: 2 vectors for 1 pairs' err
    vectors --dims 5 >b.vp
    refused 3 score pairs gold.tsv a.vp b.vp
    refused 6 score pairs gold.tsv a.vp /dev/null
    refused 3 score pairs gold.tsv a.vp gold.tsv
}

@test "the texts of a file of candidates" {
    echo '{"query":"q","positive":["p\u001b"],"negative":["n"]}' >gold.jsonl
    expect 0 score rerank --list queries gold.jsonl
    [ "$(cat out)" = '{"id":"1","text":"q"}' ]
    expect 0 score rerank --list candidates - <gold.jsonl
    [ "$(cat out)" = '{"id":"1/1","text":"p\u001b"}
{"id":"1/2","text":"n"}' ]
    echo '{"query":"q","positive":"p"}' >bad.jsonl
    refused 3 score rerank --list candidates bad.jsonl
    grep -q "bad.jsonl:1: 'positive' is not an array" err
}

@test "perplexity: of all predicted tokens, however the loss is reduced" {
    mkdir tiny
    cp "$REPO"/tests/golden/llama-gqa-tied/{config.json,model.safetensors} "$REPO/tests/pipelines/tokenizer.json" tiny/
    printf '%s\n' 'one two' 'x' 'a longer line of more words' >texts
    for reduce in token sample mixed=1; do
        tok -q -m tiny --lines --batch 3 texts | mask generate --reduce $reduce | fwd --attention causal | pool pick | loss ntp >$reduce.vp
        score perplexity --json <$reduce.vp >$reduce.json
        peek --jsonl --columns loss,weight $reduce.vp >$reduce.rows
    done
    python3 - <<'PY'
import json, math
rows = [json.loads(line) for line in open("token.rows")]
tokens = sum(len([w for w in row["weight"] if w]) for row in rows)
nats = sum(row["loss"] for row in rows) * len(rows) / tokens  # the token sum of each row, mean over rows
for reduce in "token", "sample", "mixed=1":
    o = json.load(open(reduce + ".json"))
    assert abs(o["nats_per_token"] - nats) < 1e-5 and abs(o["main_score"] - math.exp(nats)) < 1e-5 * math.exp(nats), (o, nats)
PY
    score perplexity token.vp | grep -q "^  perplexity  *$(python3 -c 'import json; print("%.2f" % json.load(open("token.json"))["main_score"])')$"
    vectors >a.vp
    refused 3 score perplexity a.vp
    grep -q 'no column loss' err
    head -c 900 token.vp >cut.vp
    refused 6 score perplexity cut.vp
}

@test "bad lines are named" {
    echo 'nonsense' >>hits.jsonl
    refused 3 score retrieval qrels.tsv hits.jsonl
    grep -q 'hits.jsonl:4: ' err
    printf '1\tone\tother\n2\ttwo\tthings\n' >bad.tsv
    refused 3 score pairs bad.tsv /dev/null /dev/null
    grep -q 'bad.tsv:2: label 2 is neither 0 nor 1' err
    refused 3 score retrieval qrels.tsv </dev/null
    printf '\377\t1\t1\n' >bad.tsv
    refused 3 score retrieval bad.tsv hits.jsonl
}

@test "wrong usage and files that are not there" {
    refused 2 score
    refused 2 score wards a b
    refused 2 score sts gold.tsv
    refused 2 score retrieval a b c
    refused 2 score pairs gold.tsv - -
    refused 2 score pairs --run x gold.tsv a b
    refused 2 score retrieval --list queries qrels.tsv
    refused 2 score retrieval --bootstrap -1 qrels.tsv hits.jsonl
    refused 4 score retrieval missing.tsv hits.jsonl
    status=0
    score retrieval qrels.tsv hits.jsonl >/dev/full 2>err || status=$?
    [ "$status" -eq 4 ]
}

# A stream of two rows with the labels A and B.
labelled() {
    printf '{"text":"one","label":"%s"}\n{"text":"two things","label":"%s"}\n' "$1" "$2" |
        tok -m "$REPO/models/SmolLM2-135M-Instruct.gguf" | fwd | pool
}

@test "labels of texts" {
    need_models
    labelled a b >train.vp
    labelled a b | expect 0 score classify --bootstrap 50 train.vp -
    [ "$(head -2 out)" = "classify: 2 texts, 95 % intervals
  accuracy               100.00  [100.00, 100.00]" ]
    score classify --json --samples-per-label 0 train.vp train.vp | python3 -c '
import json, sys
o = json.load(sys.stdin)
assert o["main_score"] == o["accuracy"] == o["f1"] == 1 and o["labels"] == 2 and o["experiments"] == 1, o'
    expect 0 score cluster train.vp
    score cluster <train.vp | diff - out
    grep -q '^  v_measure  *100.00$' out
    labelled a a >same.vp
    refused 3 score classify same.vp train.vp
    refused 3 score cluster same.vp
    refused 3 score classify --label topic train.vp train.vp
    grep -q "train.vp: frame 1 .*no label 'topic'" err
    vectors >plain.vp
    refused 3 score cluster plain.vp
    refused 3 score classify train.vp plain.vp
    refused 6 score classify train.vp /dev/null
}

@test "labels of words" {
    need_models
    for row in '"Ann","left"],"labels":["PER","O"' '"Rome","."],"labels":["LOC","O"'; do
        echo "{\"words\":[$row]}"
    done >words.jsonl
    for shift in '' --shift; do
        tok -m "$SMOLLM2" --words words.jsonl | fwd | pool words $shift >words.vp
        expect 0 score words --steps 100 --bootstrap 20 words.vp words.vp
        grep -q '^words: 2 sentences, 95 % intervals$' out
        grep -q '^  words  *4$' out
    done
    tok -m "$SMOLLM2" --words words.jsonl | fwd --pool words >words.vp
    expect 0 score words --steps 100 words.vp words.vp
    grep -q '^  accuracy  *100.00$' out
    expect 0 score words --steps 100 --rows 1 --json words.vp words.vp
    grep -q '"sentences":1,"words":2,"labels":2' out
}

@test "options of another task" {
    for option in --label=x --samples-per-label=3 --experiments=3 --steps=3 --rows=3; do
        refused 2 score sts "$option" gold.tsv a b
    done
    refused 2 score words --experiments 3 a b
    refused 2 score classify --steps 3 a b
    refused 2 score classify --experiments 0 a b
    refused 2 score cluster a b
    refused 2 score classify a
    refused 4 score cluster missing.vp
}

@test "generated texts that hold or are their answers, normalised as SQuAD's script does it" {
    python3 - >want <<'PY'
import json, random, re, string
def normalise(s):
    s = "".join(c for c in s.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", s).split())
random.seed(5)
words = ["a", "The", "an", "Ann", "then", "Tower", "U.S.", "x-y", "école", "ÉCOLE", "7", "7a", "–", "\u00a0", "\t", "  ", "'s", "a\u2013b", "the,"]
pick = lambda n: " ".join(random.choice(words) for _ in range(random.randint(0, n)))
right = exact = units = 0
with open("answers.jsonl", "w", encoding="utf-8") as f:
    for i in range(400):
        text, answers = pick(6), [pick(2) for _ in range(random.randint(1, 2))]
        f.write(json.dumps({"text": answers[0] + "!" if i % 9 == 0 else text, **({"answers": answers} if i % 3 else {"answer": answers[0]})}, ensure_ascii=i % 2) + "\n")
        sought = [a for a in map(normalise, answers if i % 3 else answers[:1]) if a]
        units += bool(sought)
        text = answers[0] + "!" if i % 9 == 0 else text
        right += any(a in normalise(text) for a in sought)
        exact += normalise(text) in sought
assert 50 < right < units and 0 < exact < right, (right, units, exact)
print(units, round(right / units, 6), round(exact / units, 6))
PY
    score match --json <answers.jsonl | python3 -c '
import json, sys
o = json.load(sys.stdin)
assert o["main_score"] == o["match"] and o["texts"] + o["texts_left_out"] == 400, o
print(o["texts"], round(o["match"], 6), round(o["exact_match"], 6))' | diff want -
    refused 3 score match <<<'{"text":"x"}'
    grep -q "^score: standard input:1: no 'answer', a string, nor 'answers', a list of strings$" err
    refused 3 score match <<<'{"answer":"x"}'
    refused 3 score match /dev/null
    refused 2 score match a b
}
