# pool: its options and what it refuses. The arithmetic is tests/unit/test_model_pool's.
# also under sanitizers
load common

GOLDEN=$REPO/tests/golden

setup() {
    sed 's/#.*//' "$REPO/tests/streams/minimal.hex" | tr -d ' \n' | tr a-f A-F | basenc --base16 -d >ids.vp
    fwd -m "$GOLDEN/bert" <ids.vp >hidden.vp
}

# values FILE: the first row's embedding, a number a line
values() { peek --jsonl --columns emb --head 1 "$1" | tr -d '{}[]"emb:' | tr , '\n'; }

@test "normalised as the model says, unless told otherwise" {
    pool <hidden.vp >emb.vp
    values emb.vp | awk '{ s += $1 * $1 } END { exit !(s > 0.9999 && s < 1.0001) }'
    pool --no-normalize <hidden.vp >raw.vp
    values raw.vp | awk '{ s += $1 * $1 } END { exit !(s > 2) }'
    pool --normalize <hidden.vp >again.vp
    peek --diff emb.vp again.vp
}

@test "--dims cuts before the normalisation" {
    pool --dims 5 <hidden.vp >emb.vp
    [ "$(values emb.vp | wc -l)" -eq 5 ]
    values emb.vp | awk '{ s += $1 * $1 } END { exit !(s > 0.9999 && s < 1.0001) }'
    refused 2 pool --dims 65 <hidden.vp
    refused 2 pool --dims -1 <hidden.vp
}

@test "every kind, and hidden is gone while ids stay" {
    for kind in mean weighted_mean last eos bos cls; do
        pool $kind <hidden.vp >$kind.vp
        expect 0 peek $kind.vp
        grep -q "$kind" out
        run ! grep -q '^  hidden' out
        grep -q '^  ids' out
    done
    peek --diff last.vp eos.vp
    peek --diff bos.vp cls.vp
    run ! peek --diff mean.vp last.vp --tol 0.001
    pool pick <hidden.vp >pick.vp
    expect 0 peek pick.vp
    grep -q '^  picked  *F32  *4x64 ' out
}

@test "words" {
    need_models
    echo '{"id":"s","words":["Emirates","1996"],"labels":["LOC","O"],"more":1}' |
        tok -m "$SMOLLM2" --words | fwd >hidden.vp
    pool words <hidden.vp >words.vp
    peek --jsonl --columns id,parent,row,meta words.vp | diff - <(
        for i in '0 LOC' '1 O'; do
            echo '{"row":0,"id":"s#'"${i% *}"'","parent":"s","meta":"{\"label\":\"'"${i#* }"'\"}"}'
        done)
    [ "$(peek --jsonl --columns emb words.vp | wc -l)" -eq 2 ]
    expect 0 peek words.vp
    grep -q '^  rows  *2$' out
    run ! grep -q '^  ids' out
    pool words --shift <hidden.vp >shifted.vp
    expect 0 peek shifted.vp
    grep -q words_shifted out
    run ! peek --diff words.vp shifted.vp
    refused 2 pool mean --shift <hidden.vp
    echo one | tok -m "$SMOLLM2" --lines | fwd >hidden.vp
    expect 3 pool words <hidden.vp
    grep -q 'tok --words' err
}

@test "wrong usage" {
    refused 2 pool median <hidden.vp
    refused 2 pool mean last <hidden.vp
    refused 2 pool mean --normalize --no-normalize <hidden.vp
    refused 2 pool <ids.vp
}

@test "broken input and output" {
    refused 3 pool mean <ids.vp
    grep -q 'hidden' err
    refused 6 pool mean </dev/null
    status=0
    pool mean <hidden.vp >/dev/full 2>err || status=$?
    [ "$status" -eq 4 ]
}
