# loss: its usage, and behind the other programs with a real model. What it computes is tests/unit/test_objective's and
# tests/py/test_loss.py's.
load common

@test "wrong usage" {
    for args in '' 'infonce mse' 'triplet' 'infonce --scale 0' 'infonce --scale -1' 'infonce --scale x' \
        'infonce --candidates all' 'infonce --same-tower x' 'infonce --teacher-weight -1' \
        'distill --teacher-temperature 0' 'distill --distillation mse' 'mntp --threads -1'; do
        # shellcheck disable=SC2086
        refused 2 loss $args </dev/null || { echo "$args"; false; }
    done
    refused 2 loss triplet </dev/null
    grep -q 'infonce' err
}

@test "no stream, and one without training steps" {
    expect 6 loss infonce </dev/null
    expect 3 loss infonce <<<'{"query":"a"}'
    sed 's/#.*//' "$REPO/tests/streams/minimal.hex" | tr -d ' \n' | tr a-f A-F | basenc --base16 -d >ids.vp
    expect 3 loss infonce <ids.vp
    grep -q "frame 1 (byte 67): no 'step'" err
    expect 3 loss mntp -m "$REPO/tests/golden/llama" <ids.vp
    grep -q "frame 1 (byte 67): no key 'step'" err
}

@test "a full disk is 4" {
    [ -w /dev/full ] || skip "no /dev/full"
    sed 's/#.*//' "$REPO/tests/streams/minimal.hex" | tr -d ' \n' | tr a-f A-F | basenc --base16 -d >ids.vp
    status=0
    loss infonce <ids.vp >/dev/full 2>err || status=$?
    [ "$status" -eq 4 ]
}

records() {
    cat <<'END'
{"id":"a","query":"a flat tyre","positive":"mending a puncture","negative":"the price of tea","scores":[0.9,0.1]}
{"id":"b","query":"wild yeast","positive":"a sourdough starter","negative":"a bicycle","scores":[0.8,0.2]}
{"id":"c","query":"a cold winter","positive":"snow until April","negative":"a sourdough starter","scores":[0.7,0.0]}
{"id":"d","query":"stars at night","positive":"the milky way","negative":"a cow","scores":[0.9,0.3]}
END
}

@test "the gradient of a step is the same bytes in one frame and in many" {
    need_models
    export VP_MODEL=$MINILM
    for tokens in 1 20 8192; do
        records | tok --batch 4 --batch-tokens $tokens | fwd | pool --no-normalize | loss infonce --teacher-weight 0.5 |
            peek --jsonl --columns id,row,loss,grad.emb | sort >$tokens.jsonl
        cmp 1.jsonl $tokens.jsonl
    done
    [ "$(wc -l <1.jsonl)" -eq 12 ]
    grep -q '"loss":0[,}]' 1.jsonl
}

@test "every objective of rows runs on what tok makes, and logs each step" {
    need_models
    export VP_MODEL=$MINILM
    records | tok --batch 2 | fwd | pool >pairs.vp
    for objective in infonce distill 'distill --distillation margin' cosent mse 'infonce --same-tower both --mask-same-text'; do
        rm -f log.jsonl
        # shellcheck disable=SC2086
        loss $objective --log log.jsonl <pairs.vp >out.vp
        [ "$(grep -c '"event":"step","step":[01],"loss":[0-9.e-]*,"rows":6}' log.jsonl)" -eq 2 ] || { cat log.jsonl; false; }
        peek out.vp | grep -q grad.emb
    done
}

@test "progress shows the step and its loss" {
    need_terminal
    need_models
    export VP_MODEL=$MINILM
    records | tok --batch 2 | fwd | pool >pairs.vp
    script -qec '{ head -c 5000 pairs.vp; sleep 0.3; tail -c +5001 pairs.vp; } | loss infonce >/dev/null' /dev/null >screen
    grep -q 'step 0, loss [0-9]' screen || { cat -v screen; false; }
}
