# pipelines/evaluate: its figures are those of the pipes in it.
load common

evaluate() { "$REPO/pipelines/evaluate" "$@"; }

setup() {
    mkdir tiny data data/sts data/pairs
    cp "$REPO"/tests/golden/llama/{config.json,model.safetensors} "$REPO/tests/pipelines/tokenizer.json" tiny/
    cp -r "$REPO/tests/golden/llama/adapter" adapter
    echo '{"bos_token": "<s>", "eos_token": "</s>"}' >tiny/tokenizer_config.json
    export VP_MODEL=$PWD/tiny
    for i in $(seq 30); do
        printf '%s\triver %s runs\tdam %s of %s\n' $((i * 7 % 5)) "$i" $((i * 11 % 13)) "$i"
    done >data/sts/stsb-test.tsv
    awk -F '\t' -v OFS='\t' '{ $1 = $1 > 2; print }' data/sts/stsb-test.tsv >data/pairs/msrp-test.tsv
}
figure() { sed 's/.*"main_score":\([-0-9.e]*\).*/\1/' "$1"; }
vectors() { cut -f "$1" data/sts/stsb-test.tsv | tok --lines | fwd --attention bi "${@:2}" | pool mean; }

@test "the figures of a model with an adapter are those of the pipes, and differ from those without" {
    expect 0 evaluate --data data --out with --adapter adapter --attention bi --pool mean --bootstrap 20 stsb msrp
    evaluate --data data --out without --attention bi --pool mean --bootstrap 20 stsb msrp >table
    cmp table without/table.tsv
    for name in with without; do
        own=()
        [ $name = without ] || own=(--adapter adapter)
        vectors 2 "${own[@]}" >first.vp
        vectors 3 "${own[@]}" >second.vp
        score sts data/sts/stsb-test.tsv first.vp second.vp --json >want
        [ "$(figure want)" = "$(figure $name/stsb.json)" ]
        score pairs data/pairs/msrp-test.tsv first.vp second.vp --json >want
        [ "$(figure want)" = "$(figure $name/msrp.json)" ]
    done
    [ "$(figure with/stsb.json)" != "$(figure without/stsb.json)" ]
}

@test "a classifier sees vectors as they are, not of length 1" {
    mkdir data/classification
    for i in $(seq 40); do echo "{\"text\": \"$([ $((i % 3)) = 0 ] && echo dam || echo river) $i\", \"label\": \"l$((i % 3))\"}"; done >rows
    head -n 24 rows >data/classification/banking77-train.jsonl
    tail -n 16 rows >data/classification/banking77-test.jsonl
    evaluate --data data --out figures --attention bi --pool mean banking77
    for length in --no-normalize --normalize; do
        for part in train test; do
            tok data/classification/banking77-$part.jsonl | fwd --attention bi | pool mean $length >$part.vp
        done
        score classify train.vp test.vp --bootstrap 1000 --json >want$length
    done
    cmp want--no-normalize figures/banking77.json
    run ! cmp -s want--normalize figures/banking77.json
}

@test "what is there is not computed again; what is missing is named" {
    evaluate --data data --out figures --bootstrap 20 stsb >/dev/null
    rm -r data/sts/stsb-test.tsv tiny
    expect 4 evaluate --data data --out figures stsb
    grep -q 'data/sts/stsb-test.tsv is not there' err
    touch data/sts/stsb-test.tsv
    expect 0 evaluate --data data --out figures stsb
    grep -q '^stsb' figures/table.tsv
    expect 2 evaluate --data data --out figures nothing
    grep -q "none of the sets" err
}
