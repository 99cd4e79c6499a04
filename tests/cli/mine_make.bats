# pipelines/mine.mk on a decoder of two layers: parts, what is done again, interruptions.
load common

setup() {
    mkdir tiny
    cp "$REPO"/tests/golden/llama/{config.json,model.safetensors} "$REPO/tests/pipelines/tokenizer.json" tiny/
    printf '{"id":"%s","text":"%s"}\n' rain 'rain falls from a cloud' wind 'the wind drives a cloud' \
        sun 'the sun dries the wet street' snow 'snow falls and is cold rain' >corpus.jsonl
    printf '{"query":"%s","positive":"%s"}\n' 'what falls from a cloud' 'rain falls from a cloud' \
        'what drives a cloud' 'the wind drives a cloud' >rows.jsonl
}
queries() { tok -m tiny --query --text rows.jsonl; }
bm25() { mine-negs --candidates bm25 --rule naive "$@"; }

# A Makefile for corpus.jsonl and rows.jsonl, and more of both; $1: what it says besides.
project() {
    for i in $(seq 60); do
        echo "{\"id\":\"t$i\",\"text\":\"the street of number $((i % 7)) has $i houses and $((i * i % 11)) trees\"}"
    done >>corpus.jsonl
    for i in $(seq 30); do
        echo "{\"query\":\"where are $i houses\",\"pos_ids\":[\"t$i\"]}"
    done >>rows.jsonl
    cat >Makefile <<EOF
MINE_MODEL = tiny
$1
MINE_QUERIES = rows.jsonl
MINE_CORPUS = corpus.jsonl
MINE_OPTIONS = --rule naive -n 3
include $REPO/pipelines/mine.mk
EOF
}
mine() { make -s -j2 mine "$@" 2>log; }

@test "make: any number of parts gives the same triples, and a second run does nothing" {
    project MINE_BM25=yes
    mine MINE_SHARDS=1 MINE_DIR=one
    mine MINE_SHARDS=7
    cmp one/triples.jsonl mined/triples.jsonl
    [ "$(wc -l <mined/triples.jsonl)" -eq 32 ]
    queries | bm25 -q mined/corpus.idx -n 3 --known rows.jsonl | cmp - mined/triples.jsonl
    before=$(stat -c '%n %y' mined/*)
    touch rows.jsonl corpus.jsonl
    mine MINE_SHARDS=7
    [ "$(stat -c '%n %y' mined/*)" = "$before" ]
}

@test "make: what changed is done again, and no more" {
    project
    mine
    sed -i 's/"query":"where are 30 houses"/"query":"are there 30 houses"/' rows.jsonl
    make -j2 mine MINE_KNOWN=none 2>/dev/null >steps
    make -j2 mine MINE_KNOWN=none >again
    [ "$(grep -c '^tok.*--query' steps)" -eq 1 ]
    [ "$(grep -c '^mine-negs' again)" -eq 0 ]
    make mine MINE_KNOWN=none MINE_OPTIONS='--rule naive -n 2' 2>/dev/null >steps
    [ "$(grep -c '^tok' steps)" -eq 0 ]
    [ "$(grep -c '^mine-negs' steps)" -eq 4 ]
    sed -i '/"t60"/d; s/60 houses/61 houses/' corpus.jsonl
    make mine MINE_KNOWN=none 2>/dev/null >steps
    [ "$(grep -c '^tok.*--query' steps)" -eq 0 ]
    [ "$(grep -c '^mine-negs' steps)" -eq 4 ]
    mine MINE_KNOWN=none MINE_DIR=fresh
    cmp fresh/triples.jsonl mined/triples.jsonl
    mine MINE_KNOWN=none MINE_TOK='--max-len 5'
    [ "$(cmp fresh/triples.jsonl mined/triples.jsonl | wc -l)" -eq 1 ]
    mine MINE_KNOWN=none
    cmp fresh/triples.jsonl mined/triples.jsonl
    make -s mine-clean
    [ ! -e mined ]
}

# Three teachers: the vectors, those of texts cut short, BM25.
teachers='MINE_TEACHERS=near cut words
MINE_TOK_cut=--max-len 5
MINE_BM25_words=yes'

@test "make: several teachers give what one call of mine-negs does" {
    project "$teachers"
    mine
    queries | fwd -q | pool -q >near.vp
    tok -q -m tiny --query --text --max-len 5 rows.jsonl | fwd -q | pool -q >cut.vp
    queries >words.vp
    idx() { echo "mined/$1/corpus.idx"; }
    mine-negs -q --candidates dense,dense,bm25 --rule naive -n 3 --known rows.jsonl \
        "$(idx near)" near.vp "$(idx cut)" cut.vp "$(idx words)" words.vp | cmp - mined/triples.jsonl
    [ "$(wc -l <mined/triples.jsonl)" -eq 32 ]
    # each one's are those that it gives alone
    mine-negs -q --candidates bm25 --rule naive -n 3 --known rows.jsonl "$(idx words)" words.vp |
        sed 's/.*"neg_ids":\[\([^]]*\).*/\1/' >alone
    sed 's/.*"neg_ids":\[\([^]]*\).*/\1/' mined/triples.jsonl | cut -d, -f7- | cmp - alone
    mine MINE_TEACHERS=words MINE_DIR=one
    [ "$(sed 's/.*"neg_ids":\[\([^]]*\).*/\1/' one/triples.jsonl)" = "$(cat alone)" ]
    before=$(stat -c '%n %y' mined/*.* mined/*/*)
    mine
    diff <(stat -c '%n %y' mined/*.* mined/*/*) - <<<"$before"
}

@test "make: another setting of one teacher, another teacher, another order: the rest stays" {
    project "$teachers"
    mine
    kept() { stat -c '%n %y' mined/near/* mined/words/* mined/rows-*; }
    before=$(kept)
    make mine MINE_TOK_cut='--max-len 4' 2>/dev/null >steps
    [ "$(kept)" = "$before" ]
    [ "$(grep -c '^tok' steps)" -eq 4 ]
    [ "$(grep -c '^mine-negs' steps)" -eq 4 ]
    mine MINE_TEACHERS='words near'
    [ "$(kept)" = "$before" ]
    mine MINE_TEACHERS='words near' MINE_DIR=fresh
    cmp fresh/triples.jsonl mined/triples.jsonl
    sed -i '/"t60"/d; s/60 houses/61 houses/' corpus.jsonl
    mine
    mine MINE_DIR=fresh
    cmp fresh/triples.jsonl mined/triples.jsonl
}

@test "make: interrupted at random and run again, the triples are the same" {
    project "$teachers"
    for i in 1 2 3 4 5 6; do
        [ "$i" -ne 4 ] || sed -i '/^MINE_TEACHERS/d' Makefile
        mine MINE_DIR=whole
        for signal in INT KILL TERM; do
            setsid make -s -j2 mine >/dev/null 2>&1 &
            pid=$!
            sleep "0.$((RANDOM % 4))$((RANDOM % 10))"
            kill -$signal -- -$pid 2>/dev/null || true
            wait $pid || true
        done
        mine
        cmp whole/triples.jsonl mined/triples.jsonl
        rm -rf mined
    done
}

@test "make: a failing program stops it, and nothing half-made stays" {
    project
    sed -i '5s/.*/{"query":/' rows.jsonl
    run mine
    [ "$status" -ne 0 ]
    grep -q '^tok: ' log
    [ ! -e mined/triples.jsonl ]
}

@test "make: the example mines with vectors, and with the rows' own texts" {
    need_models
    export VP_MODEL=$MINILM
    expect 0 make -s -j2 -f "$REPO/examples/mine.mk"
    [ "$(wc -l <triples.jsonl)" -eq 6 ]
    [ "$(grep -c '"pos_ids":\["tides"\].*"positive":\["Why there are tides .*"neg_ids":\["[a-z-]*","[a-z-]*","[a-z-]*"\]' triples.jsonl)" -eq 1 ]
    printf 'MINE_MODEL = %s\nMINE_QUERIES = rows.jsonl\ninclude %s/pipelines/mine.mk\n' "$MINILM" "$REPO" >own.mk
    expect 0 make -s -f own.mk
    [ "$(wc -l <mined/triples.jsonl)" -ge 1 ]
}

@test "make: rows as pipelines/rows prints them, whole or cut off" {
    project MINE_BM25=yes
    mine
    mv mined/triples.jsonl plain.jsonl
    { echo '{"_vp":{"jsonl":1}}'; cat rows.jsonl; echo '{"_vp":{"end":true,"rows":32}}'; } >whole.jsonl
    mine MINE_QUERIES=whole.jsonl
    cmp plain.jsonl mined/triples.jsonl
    sed -i '$d' whole.jsonl
    run mine MINE_QUERIES=whole.jsonl MINE_KNOWN=none
    [ "$status" -ne 0 ]
    grep -q '^mine.mk: whole.jsonl: what wrote it died' log
}

@test "make: what cannot be is said before anything is done" {
    project MINE_BM25=yes
    for wrong in MINE_QUERIES= MINE_MODEL= 'MINE_QUERIES=a b' "MINE_CORPUS=it's" 'MINE_KNOWN=rows.jsonl corpus.jsonl' \
        'MINE_DIR=a b' MINE_SHARDS=0 MINE_SHARDS=x MINE_SHARDS=-1 MINE_SHARDS= MINE_SHARDS=1000 \
        'MINE_TEACHERS=a ../b' 'MINE_TEACHERS=a b a' MINE_MODEL_a=; do
        run mine MINE_TEACHERS=a "$wrong"
        [ "$status" -ne 0 ]
        grep -q "${wrong%%=*}" log
        [ ! -e mined ] && [ ! -e a ]
    done
}
