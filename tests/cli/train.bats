# Training at the command line: what a run leaves, and how step and fwd --follow refuse and fail. That every way to train
# ends in the same bytes is tests/py/test_train_same's, kills are test_train_faults', streams with bad columns
# test_train_input's.
# also under sanitizers
load common

setup() {
    cp -r "$REPO/tests/golden/llama" model
    chmod -R u+w model
    cp "$REPO/tests/tokenizers/bytes.json" model/tokenizer.json
    export VP_MODEL=$PWD/model
    for i in $(seq 40); do echo "{\"text\":\"the river $((i * 7919 % 101)) runs under bridge $i\"}"; done >texts
    mix texts --batch 4 --steps 3 | tok | mask mntp --rate 0.4 >masked.vp
}

teardown() {
    exec 9>&-
    [ -z "${background:-}" ] || kill "$background" 2>/dev/null || true
}

TRAIN="--objective mntp --attention bi --lora r=2,alpha=4 --lr 1e-2"

# The bytes of a stream's first frame, a msgpack ext object.
header_size() {
    python3 -c 'import sys
d = open(sys.argv[1], "rb").read(5)
n = {0xC7: 1, 0xC8: 2, 0xC9: 4}[d[0]]
print(2 + n + int.from_bytes(d[1 : 1 + n], "big"))' "$1"
}

# live_run DIR OPTION...: step waits there for its first batch; it ends when fd 9 is closed.
live_run() {
    mkfifo in
    # shellcheck disable=SC2086
    step --out "$@" $TRAIN <in 2>live.err 3>&- &
    background=$!
    exec 9>in
    head -c "$(header_size masked.vp)" masked.vp >&9
    for _ in $(seq 100); do
        [ ! -e "$1/live" ] || return 0
        sleep 0.1
    done
    cat live.err
    return 1
}

@test "a run leaves an adapter that fwd takes, a checkpoint, and a line a step in its log" {
    # shellcheck disable=SC2086
    expect 0 step --out run $TRAIN --log log.jsonl <masked.vp
    [ ! -s out ]
    for file in adapter_model.safetensors adapter_config.json train.json live checkpoint/state.json; do [ -s run/$file ]; done
    [ "$(grep -c '"event":"step","step":[012],"loss":[0-9.]*,"lr":[0-9.e-]*,"norm":[0-9.]*,"rows":4,' log.jsonl)" -eq 3 ]
    echo 'a text' | tok --lines >ids.vp
    fwd --attention bi <ids.vp | pool >plain.vp
    fwd --attention bi --adapter run <ids.vp | pool >trained.vp
    run ! peek --diff plain.vp trained.vp --tol 0.001
}

@test "a run is gone on with, or nothing is left to do" {
    mix texts --batch 4 --steps 3 | tok | mask mntp --rate 0.4 | step --resume run $TRAIN 2>err
    cp run/adapter_model.safetensors want
    mix texts --batch 4 --steps 3 --resume run | tok | mask mntp --rate 0.4 | (expect 0 step --resume run $TRAIN && grep -q 'nothing was left to do' err)
    cmp want run/adapter_model.safetensors
    mix texts --batch 4 --steps 5 --resume run | tok | mask mntp --rate 0.4 | step --resume run $TRAIN --decay-steps 9 2>err
    grep -q '"step": 5' run/checkpoint/state.json
    run ! cmp -s want run/adapter_model.safetensors
}

@test "wrong usage" {
    refused 2 step <masked.vp
    refused 2 step --out a --resume b <masked.vp
    refused 2 step --out run extra <masked.vp
    for options in '--lora r=0' '--lora r=2.5' '--lora x=1' '--lora r=1,r=2' '--lora dropout=2' '--lora-targets nothing' \
        '--objective triplet' '--objective mntp --pool mean' '--objective infonce --pool pick' '--pool sum' '--accumulate 0' \
        '--lr -1' '--lr 1x' '--optimizer adam' '--batch-tokens 0' '--device tpu' '--attention segments --attention bi x'; do
        # shellcheck disable=SC2086
        refused 2 step --out run $options <masked.vp || { echo "$options"; false; }
    done
    refused 2 step --out run --objective mntp --compute i8 <masked.vp
    refused 2 step --out run --objective mntp --seed 9007199254740993 <masked.vp
    fwd --attention bi <masked.vp >hidden.vp
    refused 2 step --out run --objective mntp --attention causal <hidden.vp
    grep -q "attention 'causal', but the stream was made with 'bi'" err
    refused 4 step --out run --continue nothing --objective mntp <masked.vp
    refused 4 step --out run --adapter nothing --objective mntp <masked.vp
    fwd --adapter "$REPO/tests/golden/llama/adapter" <masked.vp >adapted.vp
    refused 2 step --out run --objective mntp <adapted.vp
    grep -q 'golden/llama/adapter: --adapter trains on top of it, --continue goes on with it$' err
    [ ! -e run/live ]
    tok --batch 4 texts | mask mntp >endless.vp
    refused 2 step --out run --objective mntp <endless.vp
    grep -q 'give --decay-steps' err
}

@test "wrong input" {
    refused 6 step --out run $TRAIN </dev/null
    refused 3 step --out run $TRAIN <texts
    refused 3 step --out run --schedule constant <masked.vp
    grep -q "frame 1 .*no gradients in the stream: .loss. makes them, or --objective" err
    rm -r run
    tok texts >plain.vp
    refused 3 step --out run $TRAIN <plain.vp
    grep -q "no 'step': whole training steps are needed" err
    rm -r run
    mix texts --batch 4 --steps 3 --start-step 1 | tok | mask mntp >late.vp
    refused 3 step --out run $TRAIN <late.vp
    grep -q "frame 1 .*step 1, but 'run' is at step 0: give mix and tok --resume run" err
    rm -r run
    refused 3 step --out run $TRAIN -m "$REPO/tests/golden/bert" <masked.vp
    grep -q 'the stream was made for a model with' err
}

@test "a cut stream publishes nothing; its checkpoint is the last good one" {
    size=$(stat -c %s masked.vp)
    for at in 40 $((size / 2)) $((size - 90)) $((size - 1)); do
        rm -rf run
        head -c "$at" masked.vp >cut.vp
        # shellcheck disable=SC2086
        refused 6 step --out run $TRAIN --checkpoint-every 1 <cut.vp
        [ ! -e run/adapter_model.safetensors ]
    done
    grep -q '"step": 3' run/checkpoint/state.json
    tail -c 1 masked.vp >>cut.vp
    mix texts --batch 4 --steps 3 --resume run | tok | mask mntp --rate 0.4 | step --resume run $TRAIN 2>/dev/null
    step --out calm $TRAIN <masked.vp 2>/dev/null
    cmp run/adapter_model.safetensors calm/adapter_model.safetensors
}

@test "one run a folder: 7 while another trains, 2 without --resume or with other settings" {
    live_run run
    refused 7 step --out run $TRAIN <masked.vp
    exec 9>&-
    status=0
    wait "$background" || status=$?
    [ "$status" -eq 6 ]
    background=
    step --resume run $TRAIN <masked.vp 2>/dev/null
    refused 2 step --out run $TRAIN <masked.vp
    grep -q 'go on with --resume' err
    for other in '--lora r=4,alpha=4' '--lora r=2,alpha=8' '--lora r=2,alpha=4,dropout=0.1' '--seed 1' '--attention causal' \
        '--lora-targets q_proj' '--hidden-dropout 0.1' '--optimizer sgd' '--adapter run'; do
        # shellcheck disable=SC2086
        refused 2 step --resume run $TRAIN $other <masked.vp || { echo "$other"; false; }
    done
    grep -q "begun with another" err
    refused 3 step --resume run $TRAIN <masked.vp
    grep -q "step 0, but 'run' is at step 3" err
}

@test "a damaged checkpoint is 3 and names the file" {
    step --out run $TRAIN <masked.vp 2>/dev/null
    cp -r run/checkpoint good
    for file in weights.safetensors optimizer.safetensors state.json; do
        rm -rf run/checkpoint
        cp -r good run/checkpoint
        truncate -s 300 run/checkpoint/$file
        refused 3 step --resume run $TRAIN <masked.vp
        grep -q "$file" err
        [ $file != state.json ] || (refused 3 mix texts --batch 4 --steps 3 --resume run && grep -q state.json err)
        rm run/checkpoint/$file
        refused 4 step --resume run $TRAIN <masked.vp
        grep -q "$file" err
    done
    rm -rf run/checkpoint
    cp -r good run/checkpoint
    cp good/optimizer.safetensors run/checkpoint/weights.safetensors
    refused 3 step --resume run $TRAIN <masked.vp
    grep -q weights.safetensors err
}

@test "a folder that cannot be written is 4; a full disk leaves the last good checkpoint" {
    refused 4 step --out /proc/run $TRAIN <masked.vp
    refused 4 step --out texts $TRAIN <masked.vp
    mkdir taken taken/live
    refused 4 step --out taken $TRAIN <masked.vp
    step --out run $TRAIN <masked.vp 2>/dev/null
    limit=$((($(stat -c %s run/live) + 1023) / 1024))
    [ $limit -lt $(($(stat -c %s run/checkpoint/optimizer.safetensors) / 1024)) ]
    for blocks in 1 $limit; do
        rm -rf full
        status=0
        (trap '' XFSZ && ulimit -f "$blocks" && exec step --out full $TRAIN --checkpoint-every 1 <masked.vp 2>err) || status=$?
        [ "$status" -eq 4 ] || { echo "$status"; cat err; false; }
        [ "$(wc -l <err)" -eq 1 ]
        [ ! -e full/adapter_model.safetensors ]
        [ ! -e full/checkpoint ]
    done
}

@test "fwd --follow wants the run's model and settings" {
    refused 2 fwd --attention-dropout 0.1 <masked.vp
    refused 2 fwd --follow run --adapter run <masked.vp
    live_run run --hidden-dropout 0.25
    for options in '--attention causal --hidden-dropout 0.25' '--attention bi' '--attention bi --hidden-dropout 0.25 --attention-dropout 0.5'; do
        # shellcheck disable=SC2086
        expect 3 fwd --follow run $options <masked.vp || { echo "$options"; false; }
        grep -q "'run' trains with" err
    done
    sed 's/#.*//' "$REPO/tests/streams/minimal.hex" | tr -d ' \n' | tr a-f A-F | basenc --base16 -d >ids.vp
    expect 3 fwd --follow run -m "$REPO/tests/golden/mistral" <ids.vp
    grep -q "'run' trains another model" err
    tok texts >plain.vp
    expect 3 fwd --follow run --attention bi --hidden-dropout 0.25 <plain.vp
    grep -q 'no key step' err
    truncate -s 5000 run/live
    expect 3 fwd --follow run --attention bi --hidden-dropout 0.25 <masked.vp
    grep -q "run/live.: its size is not the one that it says" err
    echo '{}' >run/train.json
    expect 3 fwd --follow run --attention bi --hidden-dropout 0.25 <masked.vp
}

for_a_second() { sleep 1; }

@test "fwd --follow waits for a run that is not there, or dead, until nobody reads it any more" {
    step --out dead $TRAIN <masked.vp 2>/dev/null
    for folder in nothing dead; do
        { status=0 && timeout 5 fwd --follow $folder --attention bi <masked.vp 2>err || status=$? && echo $status >status; } \
            > >(for_a_second)
        wait $!
        [ "$(cat status)" -eq 141 ]
        [ ! -s err ]
    done
}

@test "fwd --follow ends with 6 when the run dies under it" {
    live_run run
    fwd --follow run --attention bi <masked.vp >hidden.vp 2>err 3>&- 9>&- &
    follower=$!
    sleep 0.5
    kill -9 "$background"
    status=0
    wait "$follower" || status=$?
    [ "$status" -eq 6 ]
    grep -q "fwd: 'run/live': the training program died before step 1" err
}
