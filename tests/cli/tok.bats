#!/usr/bin/env bats
# also under sanitizers
# tok: records in, frames out: identifiers, prompts, lengths, chunks, what it says and how it fails.
load common

setup() {
    need_models
    export VP_MODEL=$MINILM
}

# One line a row: id, then the tokens.
rows() {
    peek --jsonl - | python3 -c '
import json, sys
for line in sys.stdin:
    r = json.loads(line)
    if "ids" in r: print(r["id"], *r["ids"], *(["keep", *r["keep"]] if "keep" in r else []))'
}

@test "lines: numbers as identifiers, [CLS] and [SEP] around" {
    printf 'hello world\n\nhello\n' | tok --lines | rows | sort >got
    diff - got <<<$'0 101 7592 2088 102\n1 101 102\n2 101 7592 102'
}

@test "without specials" {
    [ "$(echo hello world | tok --lines --specials none | rows)" = "0 7592 2088" ]
}

@test "JSONL: title and text, spelling of identifiers" {
    printf '{"id":1.50,"title":"hello","text":"world"}\n{"_id":"x","text":"hello"}\n' | tok | rows | sort >got
    diff - got <<<$'1.50 101 7592 2088 102\nx 101 7592 102'
}

@test "the text and the other fields are carried" {
    echo '{"id":"a","title":"T","text":"hello","year":1.0}' | tok --text >s
    peek --jsonl s | grep -q '"text":"T hello"'
    peek --jsonl s | grep -qF '\"year\":1.0'
    echo '{"id":"a","text":"hello","year":1.0}' | tok --no-meta >s
    ! peek --jsonl s | grep -q year
}

@test "identifiers from a hash, a field, the line" {
    echo '{"text":"hello","url":"u1"}' >r
    [ "$(tok --id-from url r | rows | cut -d' ' -f1)" = u1 ]
    [ "$(tok --id-from line r | rows | cut -d' ' -f1)" = 0 ]
    [[ "$(tok --id-from hash r | rows | cut -d' ' -f1)" =~ ^[0-9a-f]{32}$ ]]
}

@test "records with and without identifiers do not mix" {
    printf '{"id":1,"text":"a"}\n{"text":"b"}\n' >r
    expect 3 tok r
    grep -q '^tok: r:2: no identifier, unlike line 1$' err
}

@test "an instruction before a decoder's text is seen and not pooled" {
    [ "$(echo hello | tok -m "$SMOLLM2" --lines --instruction 'Find: ' | rows)" = "0 11933 42 33662 keep 0 0 1" ]
}

@test "an encoder's prefix is pooled" {
    [ "$(echo hello | tok --lines --instruction 'query: ' | rows)" = "0 101 23032 1024 7592 102" ]
}

@test "truncation is counted and said in one line" {
    echo one two three four five >t
    expect 0 tok --lines --max-len 4 t
    [ "$(rows <out)" = "0 101 2028 2048 102" ]
    diff - err <<<'tok: 1 of 1 texts were cut to 4 tokens'
    expect 0 tok --lines --max-len 4 --truncate left t
    [ "$(rows <out)" = "0 101 2176 2274 102" ]
    expect 0 tok -q --lines --max-len 4 t
    [ ! -s err ]
    expect 3 tok --lines --max-len 4 --truncate error t
}

@test "chunks are rows of their own" {
    echo '{"id":"d","text":"one two three four five"}' | tok --chunk 3 --overlap 1 --text >s
    rows <s >got
    diff - got <<<$'d#0 101 2028 2048 2093 102\nd#1 101 2093 2176 2274 102'
    [ "$(peek --jsonl s | grep -c '"parent":"d"')" = 2 ]
    peek --jsonl s | grep -q '"text":"three four five"'
}

@test "bad records: an error with file and line, or counted" {
    printf '{"text":"a"}\nnot json\n{"text":1}\n\xff\n{"text":"b"}\n' >r
    expect 3 tok r
    grep -q '^tok: r:2: not JSON' err
    expect 0 tok --skip-bad r
    [ "$(rows <out | wc -l)" = 2 ]
    diff - err <<<'tok: 3 bad records were skipped'
}

@test "a cut-off list of what is missing is no success" {
    printf '{"_vp":{"jsonl":1}}\n{"id":"a","text":"a"}\n' >r
    expect 6 tok r
}

@test "the head of the input names the model and the settings" {
    unset VP_MODEL
    printf '{"_vp":{"jsonl":1,"index":"u","generation":7,"model":{"path":"%s"},"encoder":{"input":{"max_len":3,"side":"document"}}}}\n' \
        "$MINILM" >r
    printf '{"id":"a","text":"hello world"}\n{"_vp":{"end":true,"rows":1}}\n' >>r
    fingerprint=$(echo | tok -m "$MINILM" --lines | LC_ALL=C grep -aoP 'fingerprint.{2}\K[0-9a-f]{32}' | head -1)
    sed -i "s/\"model\":{/\"model\":{\"fingerprint\":\"$fingerprint\",/" r
    expect 0 tok r
    [ "$(rows <out)" = "a 101 7592 102" ]
}

@test "a model that the input is not for is refused" {
    printf '{"_vp":{"jsonl":1,"index":"u","generation":7,"model":{"fingerprint":"0123"}}}\n{"_vp":{"end":true,"rows":0}}\n' >r
    expect 3 tok r
}

@test "no model, no file, a terminal's worth of options" {
    unset VP_MODEL
    echo >t
    refused 2 tok --lines t
    refused 4 tok -m "$MINILM" nosuchfile
    refused 4 tok -m nosuchmodel t
    refused 2 tok -m "$MINILM" --max-len 1 t
    refused 2 tok -m "$MINILM" --max-len x t
    refused 2 tok -m "$MINILM" --chunk 3 --overlap 3 t
    refused 2 tok -m "$MINILM" --template x t
    refused 2 tok -m "$MINILM" --lines --id-from url t
    refused 2 tok -m "$MINILM" t t
}

@test "a line that comes alone is not held back" {
    mkfifo in
    tok --lines <in >out &
    exec 5>in
    echo hello >&5
    for _ in $(seq 100); do
        grep -qa batch out && break
        sleep 0.1
    done
    grep -qa batch out
    exec 5>&-
    wait $!
    [ "$(rows <out)" = "0 101 7592 102" ]
}

@test "frames are packed by length within a window" {
    for i in $(seq 300); do printf 'word %.0s' $(seq $((i % 17 + 1))); echo; done >t
    tok --lines --batch-tokens 100 t >s
    [ "$(rows <s | wc -l)" = 300 ]
    [ "$(rows <s | cut -d' ' -f1 | sort -n | tail -1)" = 299 ]
    cmp <(tok --lines --batch-tokens 100 t | rows) <(rows <s)
}

@test "whatever the packing, peek gives the rows in the order of the input" {
    for i in $(seq 300); do printf 'word %.0s' $(seq $((i % 17 + 1))); echo; done >t
    tok --lines --batch-tokens 100 t >packed
    tok --lines --window 1 t >plain
    peek --jsonl --columns row packed >rows
    diff <(seq 0 299 | sed 's/.*/{"row":&}/') rows
    [ "$(peek --jsonl --columns row --head 7 packed | tail -1)" = '{"row":6}' ]
    for column in ids cu row hash; do
        cmp <(peek --npy - --column $column packed) <(peek --npy - --column $column plain)
        cmp <(peek --npy - --column $column --head 9 packed) <(peek --npy - --column $column --head 9 plain)
    done
    peek --jsonl --columns row packed packed | diff <(cat rows rows) -
}

@test "a vocabulary without weights is enough for tok, and is refused by fwd" {
    zstd -qd "$REPO/tests/tokenizers/gpt-2.gguf.zst" -o vocabulary.gguf
    echo 'Hello world' | tok --lines -m vocabulary.gguf >ids
    [ "$(peek --jsonl --columns ids ids)" = '{"ids":[15496,995]}' ]
    mkdir folder
    cp "$MINILM/tokenizer.json" folder/
    echo hi | tok --lines -m folder | peek --jsonl --columns ids | grep -q '\[101,7632,102\]'
    cp "$MINILM/config.json" folder/ # as tokenizers are often published: with the configuration, without weights
    echo hi | tok --lines -m folder | peek --jsonl --columns ids | grep -q '\[101,7632,102\]'
    expect 3 fwd -m vocabulary.gguf <ids
    grep -q 'a vocabulary without weights' err
}

# ---- training steps ----
numbered() { for i in $(seq "$1"); do echo "{\"text\":\"$(printf 'word %.0s' $(seq $((i * 7 % 13 + 1))))$i\"}"; done; }
# The keys of every frame: "step rows last", last only where it is.
keys() { peek "$1" | awk '/^batch/ { if (n) print n; n = "" } /^  (step|rows) / { n = n " " $2 } /^  last/ { n = n " last" }
    /^end/ { print n; exit }'; }

@test "what mix wrote as a step stays one, whatever the frames" {
    numbered 50 >r
    mix --batch 12 --seed 3 --steps 5 --start-step 2 r >mixed
    tok <mixed >s
    keys s | sed 's/^ //' >got
    diff - got <<<$'2 12 last\n3 12 last\n4 12 last'
    tok --batch-tokens 30 <mixed >small
    [ "$(keys small | wc -l)" -eq 3 ] # a step is one unit of at most 512 tokens
    mix --batch 50 r | tok --template 'a b c d e f g h i j k l m n o p q r s t u v w x y z {text}' >many
    mix --batch 50 r | tok --template 'a b c d e f g h i j k l m n o p q r s t u v w x y z {text}' --batch-tokens 1 >cut.vp
    [ "$(keys many | wc -l)" -eq 1 ]
    [ "$(keys cut.vp | wc -l)" -eq 4 ]
    [ "$(keys cut.vp | grep -c last)" -eq 1 ]
    for column in row unit ids; do cmp <(peek --npy - --column $column many) <(peek --npy - --column $column cut.vp); done
    [ "$(peek --jsonl --columns unit cut.vp | sort -u | wc -l)" -eq 4 ]
    [ "$(peek --jsonl --columns row cut.vp | head -3 | tr -d '\n')" = '{"row":0}{"row":1}{"row":2}' ]
}

@test "--batch makes steps of what comes, and what fills none is left out and counted" {
    numbered 10 >r
    expect 0 tok --batch 4 --start-step 7 r
    keys out | sed 's/^ //' >got
    diff - got <<<$'7 4 last\n8 4 last'
    peek out | grep -Eq '^  rows +8$'
    run ! grep -Eq '^  dropped +0$' <(peek out)
    expect 0 tok --batch 2 --steps 3 r
    [ "$(keys out | wc -l)" -eq 3 ]
    expect 3 tok --batch 4 --steps 3 r
    grep -q '^tok: r: enough for 2 steps of 4 records, not for 3: mix --epochs' err
    expect 6 peek out
    mix --batch 5 r | tok --batch 2 >s
    [ "$(keys s | wc -l)" -eq 5 ]
    refused 2 tok --steps 3 r
    refused 2 tok --start-step 3 r
    refused 2 tok --pack 3 r
    refused 2 tok --batch 2 --steps 2 --start-step 3 r
    refused 2 tok --batch 2 --pack 8 --max-len 4 r
}

@test "a bad row that is skipped keeps its place in mix's steps" {
    printf '{"_vp":{"jsonl":1,"batch":2,"start":5}}\n{"text":"a"}\n{"x":1}\n{"x":1}\n{"x":1}\n{"text":"b"}\n{"text":"c"}\n{"_vp":{"end":true,"rows":6}}\n' >r
    expect 0 tok --skip-bad r
    keys out | sed 's/^ //' >got
    diff - got <<<$'5 1 last\n6 0 last\n7 2 last'
    printf '{"_vp":{"jsonl":1,"batch":0,"start":5}}\n{"_vp":{"end":true,"rows":0}}\n' >r
    expect 3 tok r
}

@test "--pack: blocks of running text, and going on where a run was stopped" {
    numbered 40 >r
    tok r | peek --jsonl --columns ids - | tr -d '{}":ids[]' | tr ',' '\n' >tokens # every text with [CLS] and [SEP]
    mix --no-shuffle r | tok --pack 16 --batch 3 --steps 5 >s
    peek --jsonl --columns ids s | tr -d '{}":ids[]' | tr ',' '\n' | cmp - <(head -n $((16 * 3 * 5)) tokens)
    keys s | sed 's/^ //' >got
    diff - got <<<$'0 3 last\n1 3 last\n2 3 last\n3 3 last\n4 3 last'
    mix --no-shuffle r | tok --pack 16 --batch 3 --steps 5 --start-step 2 >rest
    keys rest | sed 's/^ //' >got
    diff - got <<<$'2 3 last\n3 3 last\n4 3 last'
    cmp <(peek --jsonl --columns ids s | tail -n 9) <(peek --jsonl --columns ids rest)
    mix --no-shuffle r | tok --pack 16 --batch 3 >all
    blocks=$(($(wc -l <tokens) / 16 / 3 * 3))
    [ "$(peek --jsonl --columns ids all | wc -l)" -eq $blocks ]
    peek all | grep -Eq "^  dropped +$(($(wc -l <tokens) - 16 * blocks))\$"
    expect 3 tok --pack 16 --batch 3 --steps 50 r
    grep -q "enough for $((blocks / 3)) steps of 3 blocks, not for 50" err
    expect 3 tok --pack 16 --batch 3 --steps 50 --start-step 40 r
    grep -q "enough for $((blocks / 3)) steps of 3 blocks, not for 50" err
}

@test "enough is enough: tok stops reading, and mix ends well" {
    numbered 40 >r
    mix --steps 100000000 r | timeout 20 tok --pack 16 --batch 3 --steps 2 >s
    [ "${PIPESTATUS[*]}" = "0 0" ]
    peek s >/dev/null
}

@test "examples: groups, roles, scores, instructions" {
    cat >r <<'EOF'
{"id":"x","query":"hello","positive":["world","word"],"negative":"hello world","scores":[1,2,0.5]}
{"query":["Find","world"],"pos":[["","hello"]],"neg":["a","b"],"pos_scores":[1],"neg_scores":[0.1,0.2]}
{"sentence1":"hello","sentence2":"world","score":3}
EOF
    tok --batch 3 --query-template '{instruction}; {text}' --query-max-len 5 r >s
    peek --jsonl --columns id,ids,group,role,score s >got
    diff - got <<'EOF'
{"id":"x","ids":[101,7592,102],"group":0,"role":0,"score":0}
{"id":"x#1","ids":[101,2088,102],"group":0,"role":1,"score":1}
{"id":"x#2","ids":[101,2773,102],"group":0,"role":1,"score":2}
{"id":"x#3","ids":[101,7592,2088,102],"group":0,"role":2,"score":0.5}
{"id":"1","ids":[101,2424,1025,2088,102],"group":1,"role":0,"score":0}
{"id":"1#1","ids":[101,7592,102],"group":1,"role":1,"score":1}
{"id":"1#2","ids":[101,1037,102],"group":1,"role":2,"score":0.1}
{"id":"1#3","ids":[101,1038,102],"group":1,"role":2,"score":0.2}
{"id":"2","ids":[101,7592,102],"group":2,"role":0,"score":0}
{"id":"2#1","ids":[101,2088,102],"group":2,"role":1,"score":3}
EOF
    # of a decoder, an instruction is not pooled: LLM2Vec's format
    head -n 2 r | tail -n 1 | tok -m "$SMOLLM2" --batch 1 --query-template '{instruction}; {text}' |
        peek --jsonl --columns ids,keep | head -n 2 | tr '\n' ' ' >got
    echo >>got
    diff - got <<<'{"ids":[11933,43,905],"keep":[0,0,1]} {"ids":[28120],"keep":[1]} '
    # the record's own instruction, else --instruction; equal texts have equal hashes
    printf '{"query":"a","pos":"a"}\n{"query":"a","pos":"b","instruction":"hello"}\n' |
        tok --batch 2 --instruction 'world ' >s
    peek --jsonl --columns ids s | tr -d '\n' >got
    [ "$(cat got)" = '{"ids":[101,2088,1037,102]}{"ids":[101,1037,102]}{"ids":[101,7592,1037,102]}{"ids":[101,1038,102]}' ]
    [ "$(peek --jsonl --columns hash s | sort | uniq | wc -l)" -eq 2 ]
}

@test "--query takes the query of an example, and carries the whole of it" {
    printf '{"query":"a","pos":"b","id":7}\n{"query":["hello","a"],"pos":"b","id":8}\n{"sentence1":"b","id":9,"instruction":""}\n' >r
    tok --query --instruction 'world ' --text r >s
    peek --jsonl --columns ids s | tr -d '\n' >got
    [ "$(cat got)" = '{"ids":[101,2088,1037,102]}{"ids":[101,7592,1037,102]}{"ids":[101,1038,102]}' ]
    [ "$(peek --jsonl --columns id s | tr -d '\n')" = '{"id":"7"}{"id":"8"}{"id":"9"}' ]
    [ "$(peek --jsonl --columns text s | tr -d '\n')" = '{"text":"a"}{"text":"a"}{"text":"b"}' ]
    [ "$(peek --jsonl --columns meta s | grep -c '"pos\\":\\"b\\",\\"query')" -eq 2 ]
    echo '{"text":"a","query":"b"}' | tok --query >s
    [ "$(peek --jsonl --columns ids s)" = '{"ids":[101,1037,102]}' ]
}

@test "examples: scores that not all rows of a step have are left out, and said" {
    printf '{"query":"%s","pos":"b"%s}\n' a '' a ',"score":1' c ',"score":2' d ',"score":0.5' >r
    expect 0 tok --batch 2 r
    grep -qx 'tok: steps whose scores were left out, as some of their rows have none: 1' err
    peek --jsonl out | awk '/"score"/ { n++ } END { exit n != 4 }'
    mask pairs --negatives 0 <out >masked
    expect 0 tok -q --batch 2 r
    [ ! -s err ]
}

@test "examples that are none, or where none can be" {
    echo '{"query":"a","pos":"b"}' >r
    expect 3 tok r
    grep -q '^tok: r:1: a query with its positives is for training steps' err
    expect 3 tok --batch 1 --chunk 3 r
    expect 3 tok --batch 1 --pack 3 r
    printf '{"query":"a","pos":"b"}\n{"text":"a"}\n' >r
    expect 3 tok --batch 2 r
    grep -q 'texts and examples' err
    echo '{"query":"a"}' >r
    expect 3 tok --batch 1 r
    grep -q "^tok: r:1: no 'positive' for the query" err
    refused 2 tok --batch 1 --query-template x r
}

@test "words: joined by one space, whose each token is" {
    echo '{"id":"s","words":["hello","worldly","!"],"labels":["A","B","C"],"text":"no","title":"no"}' >words.jsonl
    tok --words --text words.jsonl >s
    peek --jsonl s | grep -qF '"text":"hello worldly !"'
    peek --jsonl --columns word s | diff - <(echo '{"word":[-1,0,1,1,2,-1]}')
    peek --jsonl s | grep -qF '\"labels\":[\"A\",\"B\",\"C\"]'
    tok --words --instruction 'say: ' words.jsonl >s
    peek --jsonl --columns word s | diff - <(echo '{"word":[-1,-1,-1,0,1,1,2,-1]}')
    tok --words --max-len 4 -q words.jsonl >s
    peek --jsonl --columns word s | diff - <(echo '{"word":[-1,0,1,-1]}')
    echo '{"words":["a",""]}' >bad.jsonl
    expect 3 tok --words bad.jsonl
    grep -q 'bad.jsonl:1: word 1 is empty' err
    expect 0 tok --words --skip-bad -q bad.jsonl
    refused 2 tok --words --lines words.jsonl
    for i in {1..9}; do printf '{"id":"%d","words":["w","%s"]}\n' "$i" "$(seq -s x $((i % 4)))"; done | sed 's/,""/,"e"/' >many.jsonl
    tok --words --window 64 -q many.jsonl | peek --jsonl --columns id,word >one-window
    tok --words --window 2 -q many.jsonl | peek --jsonl --columns id,word | diff one-window - # whatever the sorting sees
}
