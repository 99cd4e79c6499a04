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
}
