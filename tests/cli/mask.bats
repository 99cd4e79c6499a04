# mask: what becomes of steps in the pipe, and how it fails. Shares and worked examples are in tests/unit/test_mask.c.
# also under sanitizers
load common

setup() {
    need_models
    export VP_MODEL=$MINILM
    for i in $(seq 40); do echo "{\"text\":\"$(printf 'word %.0s' $(seq $((i * 7 % 13 + 1))))$i\"}"; done >r
}

@test "mntp: the targets are what was hidden, in the position before" {
    tok --pack 16 --batch 4 --steps 4 r >ids
    mask mntp --rate 0.5 --kind all <ids >masked
    peek masked | grep -q '"fill":"all"'
    peek --jsonl --columns row,ids ids >before
    peek --jsonl --columns row,ids,target masked >after
    paste -d '\n' before after | python3 -c '
import json, sys
hidden = 0
lines = [json.loads(line) for line in sys.stdin]
for a, b in zip(lines[::2], lines[1::2]):
    for i in range(16):
        was, now = a["ids"][i], b["ids"][i]
        target = b["target"][i - 1] if i else -1
        assert now == was or now == 103, (was, now)
        assert was not in (101, 102) or now == was
        assert target == (was if now == 103 else -1) or i == 0
        hidden += target >= 0
    assert b["target"][15] == -1
assert 50 < hidden < 180, hidden'
    # weight_sum is the number of targets
    peek masked | awk '/weight_sum/ { n += $2 } END { print n }' >sum
    [ "$(cat sum)" -eq "$(tr -d '[]{}' <after | sed 's/.*target"://' | tr , '\n' | grep -vc -- -1)" ]
}

@test "the mask token: the tokenizer's, else _, or what is asked for" {
    tok --pack 16 --batch 4 --steps 1 r >ids
    mask mntp <ids | peek | grep '^  mask' | grep -q '"token":103'
    mask mntp --mask-token hello <ids | peek | grep '^  mask' | grep -q '"token":7592'
    mask mntp --mask-token 5 <ids | peek | grep '^  mask' | grep -q '"token":5'
    tok -m "$SMOLLM2" --pack 16 --batch 4 --steps 1 r | mask mntp | peek | grep '^  mask' | grep -q '"token":79'
    expect 2 mask mntp --mask-token 99999999 <ids
    expect 3 mask mntp -m "$SMOLLM2" <ids
}

@test "another cut, another seed" {
    mix r --batch 20 | tok --template "$(seq -s ' ' 40) {text}" >one
    mix r --batch 20 | tok --template "$(seq -s ' ' 40) {text}" --batch-tokens 1 >many
    [ "$(peek many | grep -c ^batch)" -gt "$(peek one | grep -c ^batch)" ]
    for kind in mntp simcse generate; do
        mask $kind --batch-tokens 700 <one >a
        mask $kind --batch-tokens 700 <many >b
        [ "$(peek a | grep -c ^batch)" -gt 2 ]
        peek --diff a b
    done
    mask mntp --seed 1 <one >c
    run ! cmp -s <(peek --jsonl --columns target b) <(peek --jsonl --columns target c)
}

@test "simcse: two views, and the end record counts them" {
    mix r --batch 20 | tok | mask simcse >s
    peek --jsonl --columns row,group,view s | head -n 4 | tr -d '\n' >got
    [ "$(cat got)" = '{"row":0,"group":0,"view":0}{"row":1,"group":0,"view":1}{"row":2,"group":1,"view":0}{"row":3,"group":1,"view":1}' ]
    [ "$(peek s | awk '/^end/ { end = 1 } end && /rows/ { print $2 }')" -eq 80 ]
    peek s | grep -Eq '^  rows +40$'
}

@test "pairs" {
    for i in $(seq 6); do echo "{\"query\":\"q $i\",\"pos\":[\"a\",\"b\"],\"neg\":[\"c\",\"d\",\"e\"]}"; done | tok --batch 6 >ids
    mask pairs --negatives 2 <ids | peek --jsonl --columns row,role >got
    [ "$(wc -l <got)" -eq 24 ]
    [ "$(grep -c '"role":2' got)" -eq 12 ]
    mask pairs --negatives 0 <ids | peek --jsonl --columns row,role | tail -n 1 | grep -q '"row":11,"role":1'
    tok --batch 6 r | (expect 3 mask pairs && grep -q "no column 'group'" err)
}

@test "wrong usage and wrong input" {
    tok r >plain
    mix r --batch 20 | tok >ids
    refused 2 mask
    refused 2 mask mntp simcse
    expect 2 mask mlm <ids
    refused 2 mask mntp --rate 1.1
    refused 2 mask generate --reduce mixed=0 <ids
    refused 2 mask generate --reduce mixed=1.5 <ids
    refused 2 mask generate --reduce mean <ids
    expect 3 mask simcse <plain
    grep -q "no 'step': whole training steps are needed, as tok --batch makes them" err
    refused 6 mask simcse </dev/null
    head -c -20 ids >cut.vp
    expect 6 mask simcse <cut.vp
    status=0
    mask simcse <ids >/dev/full 2>err || status=$?
    [ "$status" -eq 4 ]
}
