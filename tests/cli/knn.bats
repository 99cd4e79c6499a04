#!/usr/bin/env bats
# knn without a model: what needs no vectors. The rest: tests/py/test_index.py, tests/unit/test_index.c.
# also under sanitizers
load common

corpus() { printf '{"id":"%s","text":"text %s"}\n' a 1 b 2 c 3; }

@test "every command has --help with usage and options" {
    for command in add search missing delete stats verify export swap; do
        expect 0 knn "$command" --help
        grep -q "^knn $command: " out
        grep -q "Usage: knn $command" out
    done
    expect 0 knn --help
    expect 0 knn --version
}

@test "wrong usage is 2 and names what is wrong" {
    refused 2 knn
    refused 2 knn frobnicate
    grep -q frobnicate err
    refused 2 knn search
    refused 2 knn search x.idx -k many
    grep -q -- "-k" err
    refused 2 knn missing x.idx --prune-max 101
    refused 2 knn stats x.idx y.idx
    grep -q "y.idx" err
    refused 2 knn swap x.idx
    refused 2 knn export --what x.idx
}

@test "an index that is not there is 4, something else 3" {
    for command in search stats verify export delete add; do
        [ "$command" = add ] || refused 4 knn "$command" none.idx </dev/null
        touch file
        [ "$command" = add ] || refused 3 knn "$command" file </dev/null
    done
    mkdir folder && touch folder/something
    refused 3 knn missing folder </dev/null
    [ "$(ls folder)" = something ]
}

@test "missing makes an index and passes on what it lacks, byte for byte" {
    corpus >corpus.jsonl
    expect 0 knn missing new.idx corpus.jsonl
    [ ! -s err ]
    head -n 1 out | grep -q '^{"_vp":{"jsonl":1,"index":"[0-9a-f]\{32\}","generation":0}}$'
    [ "$(sed -n '2,4p' out)" = "$(cat corpus.jsonl)" ]
    [ "$(tail -n 1 out)" = '{"_vp":{"end":true,"rows":3}}' ]
    expect 0 knn verify new.idx
    [ ! -s out ] && [ ! -s err ]
    expect 0 knn export new.idx
    [ ! -s out ]
}

@test "a folder that is empty becomes an index" {
    mkdir empty.idx
    corpus | expect 0 knn missing empty.idx/
    knn verify empty.idx
    [ -z "$(find . -name '*tmp*')" ]
}

@test "of two that make one index at once, one wins and both go on" {
    for _ in 1 2 3 4; do
        rm -rf both.idx
        corpus | knn missing --wait both.idx >one &
        corpus | knn missing --wait both.idx >two
        wait $!
        [ "$(head -n 1 one)" = "$(head -n 1 two)" ]
    done
}

@test "input that breaks off is 6, malformed input 3 with its line" {
    (echo '{"_vp":{"jsonl":1}}' && corpus) >broken.jsonl
    expect 6 knn missing x.idx broken.jsonl
    [ -z "$(grep '"end"' out || true)" ]
    (corpus && echo '{"id":"d",') >bad.jsonl
    expect 3 knn missing x.idx bad.jsonl
    grep -q 'bad.jsonl:4: ' err
    refused 4 knn missing x.idx absent.jsonl
}

@test "a closed pipe ends missing quietly" {
    seq -f '{"id":"%g","text":"some text"}' 200000 >long.jsonl
    run bash -c 'knn missing x.idx long.jsonl 2>err | head -n 1 >/dev/null; echo "${PIPESTATUS[0]}"'
    [ "$output" = 141 ]
    [ ! -s err ]
}

@test "a full disk below standard output is 4" {
    [ -w /dev/full ] || skip "no /dev/full"
    seq -f '{"id":"%g","text":"some text"}' 1000 >long.jsonl
    run --separate-stderr bash -c 'knn missing x.idx long.jsonl >/dev/full'
    [ "$status" = 4 ]
    run --separate-stderr bash -c 'knn stats x.idx >/dev/full'
    [ "$status" = 4 ]
}

@test "two indexes change places" {
    corpus | knn missing a.idx >/dev/null
    corpus | knn missing b.idx >/dev/null
    before=$(knn stats a.idx | grep '^index')
    knn swap a.idx b.idx
    [ "$(knn stats b.idx | grep '^index')" = "$before" ]
    refused 2 knn swap a.idx ./a.idx
    refused 4 knn swap a.idx c.idx
    refused 3 knn swap a.idx /
}

@test "deleting what is not there is done" {
    corpus | knn missing a.idx >/dev/null
    expect 0 knn delete a.idx nobody
    printf 'x\n\ny' | expect 0 knn delete a.idx
    expect 0 knn stats --json a.idx
    grep -q '"rows":0' out
}
