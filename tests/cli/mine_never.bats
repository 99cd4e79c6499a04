# What mine-negs never takes for a negative, whatever ids, duplicates and lists there are.
load common

setup() {
    chunk=''
    mkdir tiny
    cp "$REPO"/tests/golden/llama/{config.json,model.safetensors} "$REPO/tests/pipelines/tokenizer.json" tiny/
}
# Ids of the negatives that are mined for the one row $1 out of the lines on standard input; options follow.
mined() {
    local row=$1
    shift
    rm -rf corpus.idx
    tok -m tiny --text $chunk | knn add -q --bm25 corpus.idx
    echo "$row" | tok -m tiny --query --text | mine-negs -q --candidates bm25 --rule naive -n 50 "$@" corpus.idx >out
    python3 -c 'import json; print(*sorted(json.loads(open("out").readline())["neg_ids"]))'
}

@test "a class is one value or a list of them: who shares one is no negative" {
    local row='{"query":"the cloud","positive":"cloud of rain","class":["a","b"]}'
    cat >corpus.jsonl <<'END'
{"id":"rain","text":"cloud of rain","class":"a"}
{"id":"one","text":"cloud one","class":"b"}
{"id":"two","text":"cloud two","class":["c","a"]}
{"id":"three","text":"cloud three","class":["c","d"]}
{"id":"four","text":"cloud four","class":"c"}
{"id":"five","text":"cloud five","class":[]}
END
    [ "$(mined "$row" --class class <corpus.jsonl)" = "five four three" ]
    [ "$(mined "${row/\[\"a\",\"b\"\]/\"c\"}" --class class <corpus.jsonl)" = "five one" ]
    [ "$(mined "${row/\[\"a\",\"b\"\]/[]}" --class class <corpus.jsonl)" = "five four one three two" ]
}

@test "a text has the classes of all its copies" {
    local row='{"query":"the cloud","positive":"cloud of rain","class":3}'
    printf '%s\n' '{"id":"rain","text":"cloud of rain","class":1}' '{"id":"a","text":"Cloud  two","class":2}' \
        '{"id":"b","text":"cloud two","class":3}' '{"id":"c","text":"cloud three","class":2}' >corpus.jsonl
    [ "$(mined "$row" --class class <corpus.jsonl)" = "c" ]
}

@test "a known positive is none under another id either, nor a copy of a chunk of one" {
    local row='{"query":"the cloud","pos_ids":["a"]}'
    printf '%s\n' '{"id":"a","text":"cloud one"}' '{"id":"b","text":"cloud two"}' '{"id":"b2","text":"CLOUD  two"}' \
        '{"id":"c","text":"cloud three"}' '{"id":"a2","text":"cloud one "}' >corpus.jsonl
    printf '%s\n' '{"query":"The Cloud","pos_ids":["b","none"]}' '{"query":"rain","pos_ids":["c"]}' >known.jsonl
    [ "$(mined "$row" <corpus.jsonl)" = "b c" ]
    [ "$(mined "$row" --known known.jsonl <corpus.jsonl)" = "c" ]
    printf '%s\n' '{"id":"a","text":"rain falls from a cloud"}' '{"id":"b","text":"rom a cloud"}' \
        '{"id":"c","text":"a cloud"}' >corpus.jsonl
    chunk='--chunk 8'
    tok -m tiny --text $chunk corpus.jsonl | peek --jsonl --columns text | grep -c '"text":"rom a cloud"' | grep -qx 2
    [ "$(mined "$row" <corpus.jsonl)" = "c#0" ]
}
