# mix: order, weights, batches, resumption and what it refuses. Uniformity is tests/unit/test_mix's.
# also under sanitizers
load common

setup() {
    for i in $(seq 30); do echo "{\"text\": \"a$i\",  \"set\":\"a\"}"; done >a.jsonl
    for i in $(seq 12); do echo "b$i"; done >b.txt
}

# rows FILE: without the _vp lines
rows() { grep -v '^{"_vp"' "$1"; }

@test "every row once, in another order, framed by what was mixed and by their number" {
    expect 0 mix a.jsonl b.txt
    [ ! -s err ]
    head -1 out | grep -q '^{"_vp":{"jsonl":1,"seed":0,"batch":1,"batches":"blended","steps":42,"start":0,"sets":\['
    [ "$(tail -1 out)" = '{"_vp":{"end":true,"rows":42}}' ]
    { cat a.jsonl; for i in $(seq 12); do echo "{\"id\":\"2:$i\",\"text\":\"b$i\"}"; done; } >all
    diff <(sort all) <(rows out | sort)
    run ! cmp <(rows out) all
    mix a.jsonl b.txt --no-shuffle >out
    cmp <(rows out) all
}

@test "the same run gives the same bytes; another seed, another order" {
    mix a.jsonl b.txt --seed 5 --epochs 2 >one
    mix a.jsonl b.txt --seed 5 --epochs 2 >two
    cmp one two
    mix a.jsonl b.txt --seed 6 --epochs 2 >three
    run ! cmp <(rows one) <(rows three)
    diff <(rows one | sort) <(rows three | sort)
    run ! cmp <(rows one | head -42) <(rows one | tail -42)
}

@test "from every step on, the same as an undisturbed run" {
    for how in "--batches blended" "--batches same" "--no-shuffle"; do
        mix a.jsonl=0.5 b.txt --batch 4 --steps 23 --seed 9 $how >whole
        rows whole >all
        [ "$(wc -l <all)" -eq 92 ]
        for step in $(seq 0 23); do
            mix a.jsonl=0.5 b.txt --batch 4 --steps 23 --seed 9 $how --start-step "$step" >part
            cmp <(rows part) <(tail -n +$((4 * step + 1)) all)
            [ "$(tail -1 part)" = "{\"_vp\":{\"end\":true,\"rows\":$((92 - 4 * step))}}" ]
        done
    done
    refused 2 mix a.jsonl --batch 4 --steps 23 --start-step 24
}

@test "weights: shares of the rows, other ones in the next epoch" {
    mix a.jsonl=0.2 b.txt >out
    [ "$(grep -c '"set"' out)" -eq 6 ]
    [ "$(grep -c '"id"' out)" -eq 12 ]
    mix a.jsonl=0.2 b.txt --epochs 5 >out
    diff <(sort a.jsonl) <(grep '"set"' out | sort)
    cp a.jsonl x=2
    mix x=2 >out
    [ "$(rows out | wc -l)" -eq 30 ]
    for weight in 0 -1 x nan inf 1e9 ''; do refused 2 mix "a.jsonl=$weight"; done
}

@test "same: every batch holds one set, the incomplete ones are left out" {
    mix a.jsonl b.txt --batch 7 --batches same --epochs 3 >out
    [ "$(rows out | wc -l)" -eq 105 ]
    rows out | awk '{ set = /"set"/; if (NR % 7 != 1 && set != last) bad = 1; last = set; n[set]++ }
        END { exit bad || n[1] != 84 || n[0] != 21 }'
    refused 3 mix a.jsonl b.txt --batch 13 --batches same
    grep -q "'b.txt': an epoch takes 12 of its rows" err
    mix a.jsonl b.txt --batch 13 >out
    [ "$(rows out | wc -l)" -eq 39 ]
}

@test "pooled: the same batches of one set, and mixed ones of what the sets have left" {
    for i in $(seq 11); do echo "a$i"; done >a
    for i in $(seq 6); do echo "b$i"; done >b
    for i in $(seq 3); do echo "c$i"; done >c
    refused 3 mix a b c --batch 4 --batches same
    refused 3 mix c --batch 4 --batches pooled
    for seed in 1 2; do
        mix a b c --batch 4 --batches pooled --seed $seed --epochs 2 >out$seed
        # 2 of a, 1 of b, and 3 + 2 + 3 rows that are left: 2 mixed ones
        head -n 1 out$seed | grep -q '"batches":"pooled","steps":10,'
        for epoch in 0 1; do
            sed '1d;$d' out$seed | sed -n "$((epoch * 20 + 1)),$((epoch * 20 + 20))p" | sed 's/.*"text":"\([a-z]\)\([0-9]*\)".*/\1 \2/' >epoch
            [ "$(sort -u epoch | wc -l)" -eq 20 ]
            awk '{ sets[int((NR - 1) / 4)] = sets[int((NR - 1) / 4)] $1 } END { for (i in sets) print sets[i] }' epoch | sort >batches
            [ "$(grep -cx aaaa batches)" -eq 2 ]
            [ "$(grep -cx bbbb batches)" -eq 1 ]
            [ "$(wc -l <batches)" -eq 5 ]
        done
        mix a b c --batch 4 --batches pooled --seed $seed --epochs 2 --start-step 7 | sed '1d;$d' | diff - <(sed '$d' out$seed | tail -n 12)
    done
    run ! cmp -s out1 out2
}

@test "the reader may close the pipe at any time" {
    set -o pipefail
    mix a.jsonl --steps 1M 2>err | head -n 3 >out
    [ "$(wc -l <out)" -eq 3 ]
    [ ! -s err ]
    status=0
    mix a.jsonl >/dev/full 2>err || status=$?
    [ "$status" -eq 4 ]
    [ "$(wc -l <err)" -eq 1 ]
}

@test "line ends, missing newlines, empty files" {
    printf '{"text":"x"}\r\n\r\n{"text":"y"}' >crlf.jsonl
    printf 'p\r\n\nq' >crlf.txt
    : >empty.jsonl
    mix --no-shuffle crlf.jsonl empty.jsonl crlf.txt >out
    printf '%s\n' '{"text":"x"}' '{"text":"y"}' '{"id":"3:1","text":"p"}' '{"id":"3:3","text":"q"}' | diff - <(rows out)
    expect 0 mix empty.jsonl
    [ "$(wc -l <out)" -eq 2 ]
    refused 3 mix empty.jsonl --steps 3
}

@test "files, pipes, standard input and zstd are one" {
    mix a.jsonl >want
    mix <a.jsonl >got
    cmp <(rows want) <(rows got)
    mix - <a.jsonl >got
    cmp <(rows want) <(rows got)
    mix <(cat a.jsonl) >got
    cmp <(rows want) <(rows got)
    zstd -q a.jsonl
    mix a.jsonl.zst >got
    cmp <(rows want) <(rows got)
    head -c 50 a.jsonl.zst >cut.zst
    refused 6 mix cut.zst
    TMPDIR=/nowhere refused 4 mix a.jsonl.zst
    refused 2 mix - - <a.jsonl
}

@test "bad records: named when their turn comes, or before with --check" {
    printf '{"text":"x"}\n\n{"text":\n' >bad.jsonl
    expect 3 mix a.jsonl bad.jsonl
    grep -q '^mix: bad.jsonl:3: not JSON' err
    [ "$(grep -c '"end"' out)" -eq 0 ]
    mix bad.jsonl --no-shuffle --steps 1 >out
    refused 3 mix bad.jsonl --no-shuffle --steps 1 --check
    printf 'x\n\377\n' >bad.txt
    refused 3 mix --check bad.txt
    grep -q 'bad.txt:2: not UTF-8' err
    refused 4 mix missing.jsonl
    refused 4 mix .
}

@test "what mix wrote is a data set, if it is whole" {
    mix a.jsonl b.txt >mixed
    mix mixed --no-shuffle --lines no >again
    cmp <(rows mixed) <(rows again)
    head -n -1 mixed >short
    refused 6 mix short
    [ "$(mix --lines yes short | wc -l)" -eq 45 ]
}

@test "tok reads it, and notices an end that is missing" {
    need_models
    mix b.txt --epochs 2 | tok -m "$MINILM" | peek >out
    grep -q '^  rows  *24$' out
    mix b.txt | head -n 5 >short
    expect 6 tok -m "$MINILM" <short
}

@test "wrong usage" {
    refused 2 mix a.jsonl --batch 0
    refused 2 mix a.jsonl --epochs 0
    refused 2 mix a.jsonl --seed -1
    refused 2 mix a.jsonl --batches mixed
    refused 2 mix a.jsonl --lines maybe
    refused 2 mix a.jsonl --epochs 1e9
    refused 3 mix a.jsonl --batch 31
}
