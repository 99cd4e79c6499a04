# mine-negs from outside. What is mined: tests/py/test_mine.py, tests/unit/test_mine.c.
# also under sanitizers
load common

setup() {
    mkdir tiny
    cp "$REPO"/tests/golden/llama/{config.json,model.safetensors} "$REPO/tests/pipelines/tokenizer.json" tiny/
    printf '{"id":"%s","text":"%s"}\n' rain 'rain falls from a cloud' wind 'the wind drives a cloud' \
        sun 'the sun dries the wet street' snow 'snow falls and is cold rain' >corpus.jsonl
    printf '{"query":"%s","positive":"%s"}\n' 'what falls from a cloud' 'rain falls from a cloud' \
        'what drives a cloud' 'the wind drives a cloud' >rows.jsonl
}
queries() { tok -m tiny --query --text "$@" rows.jsonl; }
index() { tok -m tiny --text corpus.jsonl | knn add --bm25 corpus.idx; }
bm25() { mine-negs --candidates bm25 --rule naive "$@"; }

@test "wrong usage is 2 and names what is wrong" {
    refused 2 mine-negs
    refused 2 mine-negs --rule best x.idx
    grep -q "'best'" err
    refused 2 mine-negs --rule percent= x.idx
    refused 2 mine-negs --rule percent=95 x.idx
    grep -q "'percent=95': a share of the positive's score" err
    for range in 5 5-5 9-5 -3 1-2-3 x-y 1-2000000 ''; do
        refused 2 mine-negs --range="$range" x.idx
        grep -q -- '--range' err
    done
    for list in near 'dense,' ',bm25' dense,x dense,dense,dense "$(printf 'bm25,%.0s' {1..17})bm25"; do
        refused 2 mine-negs --candidates "$list" x.idx a y.idx b
        grep -q -- '--candidates' err
    done
    refused 2 mine-negs -n 0 x.idx
    refused 2 mine-negs x.idx - y.idx -
    refused 2 mine-negs --reapply --texts
    refused 2 mine-negs --reapply --class part
    refused 2 mine-negs --texts a b
    refused 4 mine-negs none.idx </dev/null
    refused 4 mine-negs corpus.idx none.vp
    refused 4 mine-negs --texts none.jsonl
}

@test "the row comes out as it came, with its negatives" {
    index
    echo '{"pos":["rain falls from a cloud"],"x":{"b":12345678901234567890,"a":1.50},"query":"what falls","neg":"old","score":3}' >rows.jsonl
    queries >q.vp
    expect 0 bm25 corpus.idx q.vp -n 1
    grep -q '^{"pos":\["rain falls from a cloud"\],"query":"what falls","x":{"a":1.50,"b":12345678901234567890},"neg":\["snow falls and is cold rain"\],"neg_ids":\["snow"\],"neg_scores":\[[0-9.e-]*\],"pos_scores":\[[0-9.e-]*\]}$' out
    grep -q '^mine-negs: 1 queries, 1 negatives, 2 candidates, 1 known positives$' err
    expect 0 bm25 -q corpus.idx q.vp --log log
    [ ! -s err ]
    grep -q '"event":"negatives","rows":1,"negatives":1,"candidates":2,"query":0,"positive":1,' log
}

@test "several teachers look for candidates each in its own way" {
    index
    tok -m tiny --text corpus.jsonl | fwd | pool | knn add -q near.idx
    queries >words.vp
    fwd <words.vp | pool >near.vp
    expect 0 mine-negs --candidates bm25,dense --rule naive -n 1 corpus.idx words.vp near.idx near.vp
    mv out both
    expect 0 bm25 -n 1 corpus.idx words.vp
    ids() { sed 's/.*"neg_ids":\[\([^]]*\).*/\1/' "$1"; }
    [ "$(ids both | cut -d, -f1)" = "$(ids out)" ]
    [ "$(sed 's/.*"pos_scores"//' both)" = "$(sed 's/.*"pos_scores"//' out)" ]
    expect 0 mine-negs --rule naive -n 1 near.idx near.vp
    [ "$(ids both | cut -d, -f2)" = "$(ids out)" ]
    # --words is for the second
    sed -i 's/}$/,"terms":"wet street"}/' rows.jsonl
    queries >words.vp
    fwd <words.vp | pool >near.vp
    expect 0 mine-negs --candidates dense,bm25 --words terms --rule naive -n 1 near.idx near.vp corpus.idx words.vp
    [ "$(ids out | cut -d, -f2 | sort -u)" = '"sun"' ]
}

@test "what is mined is read by tok and mask as it is" {
    index
    queries | bm25 corpus.idx >triples.jsonl
    tok -m tiny --batch 2 triples.jsonl | mask pairs --negatives 1 >masked.vp
    [ "$(peek --jsonl --columns role masked.vp | grep -c '"role":2')" -eq 2 ]
    sed 's/"positive"/"pos"/' rows.jsonl >again && mv again rows.jsonl
    queries | bm25 corpus.idx | tok -m tiny --batch 2 | peek --jsonl --columns role | grep -q '"role":2'
}

@test "the texts of rows are a corpus" {
    echo '{"query":"q","pos":["a",["instruction","b"]],"neg":["c","a"]}' >>rows.jsonl
    expect 0 mine-negs --texts rows.jsonl
    [ "$(sed 's/.*"text":"\(.*\)"}/\1/' out | paste -sd, -)" = "rain falls from a cloud,the wind drives a cloud,a,b,c" ]
    tok -m tiny --text out | knn add --bm25 own.idx
    echo '{"positive":"no query"}' >rows.jsonl
    expect 3 mine-negs --texts rows.jsonl
    grep -q '^mine-negs: rows.jsonl:1: ' err
}

@test "bad rows are 3 and named, or counted" {
    index
    echo '{"query":"cloud","positive":"not there"}' >>rows.jsonl
    queries >q.vp
    expect 3 bm25 corpus.idx q.vp
    grep -q "^mine-negs: row '2': positive 1 is not in 'corpus.idx'" err
    [ "$(wc -l <out)" -eq 2 ]
    expect 0 bm25 --skip-bad corpus.idx q.vp
    [ "$(wc -l <out)" -eq 2 ]
    grep -q '1 bad rows skipped' err
    expect 0 bm25 --no-scores corpus.idx q.vp
    [ "$(grep -c '"neg_ids"' out)" -eq 3 ]
    [ "$(grep -c scores out)" -eq 0 ]
    for row in '{"query":1,"positive":"a"}' '{"query":"a"}' '{"query":"a","pos_ids":[[]]}' '{"query":"a","pos_ids":{"a":1}}'; do
        echo "$row" | expect 3 mine-negs --reapply
        echo "$row" | expect 0 mine-negs --reapply --skip-bad
        grep -q '1 bad rows skipped' err
    done
    for row in '{"query":"a","positive":"b","neg":["c"]}' '{"query":"a","positive":"b","neg":["c"],"neg_scores":[1]}' \
        '{"query":"a","positive":"b","neg":["c"],"neg_scores":[1,2],"pos_scores":[1]}' '[]' '{"query":'; do
        echo "$row" | refused 3 mine-negs --reapply
        grep -q '^mine-negs: standard input:1: ' err
    done
}

@test "an index without texts, and one of BM25 alone, are refused where they cannot serve" {
    index
    queries >q.vp
    refused 3 mine-negs corpus.idx q.vp
    tok -m tiny corpus.jsonl >textless.vp
    refused 3 knn add --bm25 x.idx textless.vp
    refused 3 knn add y.idx textless.vp
    knn missing empty.idx </dev/null >/dev/null
    expect 3 bm25 empty.idx q.vp
}

@test "a damaged or broken stream is refused with what came before it mined" {
    index
    queries --batch-tokens 1 >q.vp
    size=$(stat -c %s q.vp)
    for cut in 0 1 100 $((size / 2)) $((size - 1)); do
        head -c "$cut" q.vp >cut.vp
        expect 6 bm25 corpus.idx cut.vp
    done
    for at in 20 $((size / 2)) $((size - 30)); do
        cp q.vp bad.vp
        printf '\x5a' | dd of=bad.vp bs=1 seek="$at" conv=notrunc status=none
        cmp -s q.vp bad.vp || expect 3 bm25 corpus.idx bad.vp
    done
}

@test "a closed pipe and a full disk" {
    index
    queries >q.vp
    [ -w /dev/full ] || skip "no /dev/full"
    run --separate-stderr bash -c 'mine-negs --candidates bm25 --rule naive corpus.idx q.vp >/dev/full'
    [ "$status" -eq 4 ]
}

@test "a row whose lists of positives are empty comes out with the index's texts, each key once" {
    index
    echo '{"query":"what falls","positive":[],"pos":null,"pos_ids":["rain"]}' >rows.jsonl
    queries >q.vp
    expect 0 bm25 corpus.idx q.vp
    grep -q '^{"pos_ids":\["rain"\],"query":"what falls","positive":\["rain falls from a cloud"\],"negative":\["snow' out
    mine-negs -q --reapply --rule naive out | grep -q "neg_ids.:..snow"
}

@test "a row without positives is bad, whatever the rule" {
    index
    printf '%s\n' '{"query":"a cloud"}' '{"query":"a cloud","positive":[]}' >rows.jsonl
    queries >q.vp
    expect 3 bm25 --no-scores corpus.idx q.vp
    grep -q "^mine-negs: row '0': no positive$" err
    [ ! -s out ]
}

@test "a text that stands for the query does so in files, too" {
    index
    echo '{"text":"what falls from a cloud","pos_ids":["rain"]}' >rows.jsonl
    queries >q.vp
    echo '{"title":"what falls","text":"from a cloud","pos_ids":["wind"]}' >known.jsonl
    expect 0 bm25 --known rows.jsonl corpus.idx q.vp
    grep -q '"neg_ids":\["wind","snow"\]' out
    expect 0 bm25 --known known.jsonl corpus.idx q.vp
    grep -q '"neg_ids":\["snow"\]' out
    echo '{"pos_ids":["wind"]}' >known.jsonl
    expect 3 bm25 --known known.jsonl corpus.idx q.vp
    grep -q "^mine-negs: known.jsonl:1: no 'query' and no 'text'" err
}

@test "files as pipelines/rows prints them are read without their first and last line, and cut off are 6" {
    index
    queries >q.vp
    bm25 -q --known rows.jsonl corpus.idx q.vp >plain.jsonl
    frame() { echo '{"_vp":{"jsonl":1}}'; cat "$1"; echo "{\"_vp\":{\"end\":true,\"rows\":$(wc -l <"$1")}}"; }
    frame rows.jsonl >framed.jsonl
    bm25 -q --known framed.jsonl corpus.idx q.vp | cmp - plain.jsonl
    mine-negs --texts framed.jsonl | cmp - <(mine-negs --texts rows.jsonl)
    frame plain.jsonl | mine-negs -q --reapply --rule naive | cmp - <(mine-negs -q --reapply --rule naive plain.jsonl)
    sed -i '$d' framed.jsonl
    expect 6 bm25 --known framed.jsonl corpus.idx q.vp
    expect 6 mine-negs --texts framed.jsonl
    grep -q '^mine-negs: framed.jsonl: the closing _vp line is missing' err
}

@test "reapply on files that others wrote: no query, no positive, no numbers or ids that cannot be" {
    cat >foreign.jsonl <<'END'
{"query":"a","positive":"p","negative":["P ","n"," A","m"],"neg_scores":[0.4,0.3,0.2,0.1],"pos_scores":[0.9],"neg_ids":["1","2","3","4"]}
END
    expect 0 mine-negs --reapply --rule naive foreign.jsonl
    grep -q '"negative":\["n","m"\],"neg_ids":\["2","4"\],"neg_scores":\[0.3,0.1\]' out
    grep -q '^mine-negs: 1 queries, 2 negatives, 4 candidates, 1 the query itself, 1 known positives' err
    for wrong in 's/0.4,/1e300,/' 's/"neg_ids":.*\]/"neg_ids":["1"]/' 's/"neg_ids":.*\]/"neg_ids":[1,2,3,4]/'; do
        sed "$wrong" foreign.jsonl >wrong.jsonl
        refused 3 mine-negs --reapply wrong.jsonl
    done
}

@test "options that would do nothing are refused" {
    refused 2 mine-negs --reapply --depth 5
    refused 2 mine-negs --reapply --duplicates drop
    refused 2 mine-negs --range 0-3 --depth 5 x.idx
    refused 2 mine-negs --max-score 2.5 x.idx
    refused 2 mine-negs --words words x.idx
    refused 2 mine-negs --texts --skip-bad
}
