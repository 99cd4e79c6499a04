#!/usr/bin/env bats
# Keys and values from fwd into an index, with a tiny model. Their numbers: tests/unit/test_model_kv.c; the index's side:
# tests/unit/test_index_kv.c, tests/py/test_kv_faults.py.
# also under sanitizers
load common

GOLDEN=$REPO/tests/golden

setup() {
    mkdir tiny
    cp "$GOLDEN"/llama-gqa-tied/{config.json,model.safetensors} "$REPO/tests/pipelines/tokenizer.json" tiny/
    export VP_MODEL=$PWD/tiny
    head -n 12 "$REPO/examples/corpus.jsonl" >corpus.jsonl
    tok -q --max-len 60 <corpus.jsonl >ids.vp
}

emb() { peek --jsonl --columns id,row,emb "$1"; }
tokens() { peek --jsonl --columns ids "$1" | grep -o '[0-9][0-9]*' | wc -l; }

@test "embeddings are the same bytes with keys and values and without" {
    for attention in bi causal; do
        fwd --attention "$attention" --pool mean <ids.vp >emb.vp
        fwd --attention "$attention" --emit emb,kv --pool mean <ids.vp >both.vp
        [ "$(emb emb.vp)" = "$(emb both.vp)" ]
    done
    fwd --emit hidden,kv <ids.vp | pool mean >late.vp
    fwd --emit kv,emb --pool mean <ids.vp >fused.vp
    peek --diff late.vp fused.vp
    fwd --emit emb <ids.vp >auto.vp
    fwd --pool auto <ids.vp | peek --diff auto.vp -
    fwd --emit emb,kv --pool mean --threads 1 --batch-tokens 1 <ids.vp | peek --diff fused.vp -
}

@test "keys and values alone, and what the header says of them" {
    expect 0 fwd --emit kv <ids.vp
    mv out kv.vp
    expect 0 peek kv.vp
    grep -q '"k" \["BF16",\["L","T",2,16\]\]$' out
    grep -q "^  v  *BF16  *2x$(tokens kv.vp)x2x16 " out
    run ! grep -q '^  \(hidden\|emb\) ' out
    refused 3 peek --jsonl --columns k kv.vp
    expect 0 peek --jsonl kv.vp
    run ! grep -q '"k":' out
}

@test "what cannot be emitted is 2" {
    refused 2 fwd --emit emb,keys <ids.vp
    grep -q "'keys' is not one of hidden, emb, kv" err
    refused 2 fwd --emit '' <ids.vp
    refused 2 fwd --emit hidden,emb <ids.vp
    refused 2 fwd --emit kv --pool mean <ids.vp
    refused 2 fwd --emit kv --normalize <ids.vp
    refused 2 fwd --emit emb,kv --pool words <ids.vp
    expect 4 bash -c 'fwd --emit emb,kv <ids.vp >/dev/full'
    grep -q '^fwd: .*No space left on device$' err
}

@test "an index says what it will take, once, and stats says what it took" {
    fwd --attention bi --emit emb,kv <ids.vp >kv.vp
    expect 0 knn add a.idx kv.vp
    [ "$(cat err)" = "knn: keys and values: 256 bytes a token, about $(awk -v t="$(tokens kv.vp)" 'BEGIN { printf "%.1f", int(256 * t / 12) / 1024 }') KiB a row (of $(($(tokens kv.vp) / 12)) tokens, as in the first frame)" ]
    expect 0 knn add a.idx kv.vp
    [ ! -s err ]
    expect 0 knn add -q quiet.idx kv.vp
    [ ! -s err ]
    expect 0 knn stats a.idx
    grep -q "^keys/values  bf16, $(tokens kv.vp) tokens, .* 256 bytes a token$" out
    expect 0 knn stats --json a.idx
    grep -q "\"kv\":\"bf16\",\"kv_bytes\":$((256 * $(tokens kv.vp))),\"kv_file_bytes\":[0-9]*,\"kv_tokens\":$(tokens kv.vp)" out
    knn verify a.idx
    expect 0 knn add --kv i8 i8.idx kv.vp
    grep -q "160 bytes a token" err
    expect 0 knn stats i8.idx
    grep -q "^keys/values  i8, .* 160 bytes a token$" out
    expect 0 knn add -q --kv i8 --kv-zstd small.idx kv.vp
    expect 0 knn stats small.idx
    grep -q "^keys/values  i8 zstd, " out
    for index in i8 small; do knn verify $index.idx; done
}

@test "from a pipe and from a file, at once and piece by piece: the same files" {
    fwd --attention bi --emit emb,kv <ids.vp >kv.vp
    knn add -q file.idx kv.vp
    fwd --attention bi --emit emb,kv <ids.vp | knn add -q pipe.idx
    cmp file.idx/kv-00000001.bin pipe.idx/kv-00000001.bin
    cmp file.idx/seg-00000001.vec pipe.idx/seg-00000001.vec
    [ -s file.idx/kv-00000001.bin ]
}

@test "an index holds keys and values of all rows or of none" {
    fwd --pool mean <ids.vp >emb.vp
    fwd --emit emb,kv --pool mean <ids.vp >kv.vp
    knn add -q with.idx kv.vp
    knn add -q without.idx emb.vp
    refused 3 knn add with.idx emb.vp
    grep -q "no columns k and v" err
    refused 3 knn add without.idx kv.vp
    grep -q "without keys and values" err
    refused 3 knn add --kv i8 with.idx kv.vp
    grep -q "as bf16" err
    refused 3 knn add --kv-zstd with.idx kv.vp
    knn verify with.idx
    expect 0 knn stats without.idx
    run ! grep -q keys/values out
    knn swap with.idx without.idx
    expect 0 knn stats without.idx
    grep -q '^keys/values  bf16' out
    knn verify without.idx
    expect 0 knn export --jsonl without.idx
    [ "$(wc -l <out)" -eq 12 ]
}

@test "chunks have their own, missing and delete keep the files in step" {
    knn missing c.idx corpus.jsonl | tok -q --chunk 8 | fwd --emit emb,kv --pool mean | knn add -q c.idx
    knn verify c.idx
    rows=$(knn stats --json c.idx | grep -o '"rows":[0-9]*' | cut -d: -f2)
    [ "$rows" -gt 12 ]
    sed 's/"text": *"/&Changed. /' corpus.jsonl >changed.jsonl
    run ! cmp -s corpus.jsonl changed.jsonl
    knn missing c.idx changed.jsonl | tok -q --chunk 8 | fwd --emit emb,kv --pool mean | knn add -q c.idx
    knn verify c.idx
    files=(c.idx/kv-*.bin)
    [ ${#files[@]} -eq 1 ]
    knn export --jsonl c.idx | grep -o '"parent":"[^"]*"' | cut -d'"' -f4 | sort -u | knn delete c.idx
    knn verify c.idx
    expect 0 knn stats c.idx
    grep -q '^keys/values  bf16, 0 tokens' out
    run ! ls c.idx/kv-*.bin
}

@test "damaged files are named" {
    fwd --emit emb,kv --pool mean <ids.vp >kv.vp
    knn add -q a.idx kv.vp
    cp -r a.idx b.idx
    cp -r a.idx c.idx
    printf '\377' | dd of=a.idx/kv-00000001.bin bs=1 seek=77 conv=notrunc status=none
    printf '\376' | dd of=a.idx/kv-00000001.bin bs=1 seek=78 conv=notrunc status=none
    refused 3 knn verify a.idx
    grep -q "keys and values of '.*': checksum" err
    truncate -s 100 b.idx/kv-00000001.bin
    refused 3 knn verify b.idx
    grep -q 'kv-00000001.bin.: damaged: 100 bytes' err
    refused 3 knn add -q b.idx kv.vp
    rm c.idx/kv-00000001.bin
    refused 3 knn verify c.idx
    grep -q 'kv-00000001.bin.: damaged: the file is missing' err
}

@test "a folder that cannot be written to is verified" {
    fwd --emit emb,kv --pool mean <ids.vp | knn add -q a.idx
    chmod -R a-w a.idx
    knn verify a.idx
    expect 0 knn stats a.idx
    chmod -R u+w a.idx
}
