# A text's vector is the same bytes by every road: alone, in any batch, any order, from a file or a pipe, with any number of
# threads, through zstd; with an encoder, and with a decoder and a prompt.
load common

setup() {
    need_models
    cp "$REPO/examples/corpus.jsonl" corpus.jsonl
}

# id and vector, one row a line, in the order of the ids
vectors() { peek --jsonl --columns id,emb "$@" | sort; }

by_every_road() {
    tok "$@" <corpus.jsonl | fwd --threads 2 | pool | vectors >want
    [ "$(wc -l <want)" -eq "$(wc -l <corpus.jsonl)" ]
    grep -q '"emb":\[[-0-9]' want

    tok "$@" corpus.jsonl >ids.vp
    fwd --threads 1 <ids.vp >hidden.vp
    pool <hidden.vp >emb.vp
    vectors emb.vp | cmp - want

    zstd -qf hidden.vp
    pool <hidden.vp.zst | zstd -q | vectors | cmp - want

    sort -R --random-source=<(yes) corpus.jsonl | tok "$@" --batch-tokens 100 | fwd --pool auto | vectors | cmp - want
    tok "$@" --window 1 <corpus.jsonl | fwd --batch-tokens 64 | pool | vectors | cmp - want

    # a batch of 64 with others around, and every fifth text alone
    for i in 1 2; do sed "s/\"id\": *\"/&$i-/" corpus.jsonl; done >more.jsonl
    cat more.jsonl corpus.jsonl | head -n $((64 * 2)) | tok "$@" --batch-tokens 100000 | fwd | pool | vectors |
        grep -v '"id":"[12]-' >together
    [ -s together ]
    grep -Fxf together want | cmp - together
    awk 'NR % 5 == 1' corpus.jsonl | while read -r line; do
        tok "$@" <<<"$line" | fwd | pool | vectors
    done | sort >alone
    grep -Fxf alone want | cmp - alone
}

@test "an encoder gives the same bytes by every road" {
    export VP_MODEL=$MINILM
    by_every_road
}

@test "a decoder with a prompt gives the same bytes by every road" {
    export VP_MODEL=$SMOLLM2
    head -n 12 "$REPO/examples/corpus.jsonl" >corpus.jsonl
    by_every_road --instruction 'Represent the text: '
}

@test "every instruction set of this machine keeps that promise" {
    export VP_MODEL=$MINILM
    head -n 10 "$REPO/examples/corpus.jsonl" >corpus.jsonl
    for VP_ISA in avx2 scalar; do
        export VP_ISA
        by_every_road
    done
}
