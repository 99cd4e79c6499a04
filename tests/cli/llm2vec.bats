# pipelines/llm2vec on a decoder of two layers: the stages, fused and piped, stacked and continued, killed and resumed.
load common

llm2vec() { "$REPO/pipelines/llm2vec" "$@"; }

setup() {
    mkdir tiny
    cp "$REPO"/tests/golden/llama/{config.json,model.safetensors} "$REPO/tests/pipelines/tokenizer.json" tiny/
    corpus=$REPO/examples/corpus.jsonl
    sed -E 's/.*"title": "([^"]*)", "text": "([^"]*)".*/{"query":"\1","positive":"\2","negative":"nothing of it"}/' \
        "$corpus" >pairs.jsonl
    export VP_MODEL=$PWD/tiny
    small=(--steps 3 --batch 4 --length 32 -q)
}

same_adapter() { cmp "$1/adapter_model.safetensors" "$2/adapter_model.safetensors"; }

@test "--help has the preset's values, and lists the presets" {
    expect 0 llm2vec --help
    grep -q '^  *--steps N .*\[250 | 150 | 500\]$' out
    grep -q '^Presets: default .*mistral-7b' out
    expect 0 llm2vec --preset sheared-llama-1.3b --help
    grep -q '^  *--lr X .*\[5e-5 | 3e-5 | 2e-4\]$' out
}

@test "wrong usage is 2, in one line" {
    while read -r line; do
        # shellcheck disable=SC2086
        refused 2 llm2vec $line || { echo "$line"; false; }
    done <<END
mntq
mntp
mntp -o run
mntp $corpus
mntp -o run $corpus --steps
mntp -o run $corpus --stepz 3
mntp -o run $corpus --scale 3
simcse -o run $corpus --rate 0.2
simcse -o run $corpus --text $corpus
all -o run
all -o run $corpus
mntp -o run $corpus --preset absent
END
    unset VP_MODEL
    refused 2 llm2vec mntp -o run "$corpus"
    [ ! -e run ]
}

@test "--dry-run prints a pipeline that gives the same adapter, and runs nothing" {
    expect 0 llm2vec mntp -o 'a run' "$corpus" "${small[@]}" --dry-run
    [ ! -s err ]
    [ ! -e 'a run' ]
    bash -euo pipefail out
    llm2vec mntp -o other "$corpus" "${small[@]}"
    same_adapter 'a run' other
    PATH=/usr/bin:/bin llm2vec mntp -o third "$corpus" "${small[@]}" --dry-run >elsewhere
    PATH=/usr/bin:/bin bash -euo pipefail elsewhere
    same_adapter third other
}

@test "--show prints it and runs it; without -q the end says how to embed" {
    expect 0 llm2vec simcse -o run "$corpus" --steps 2 --batch 4 --length 32 --show
    [ ! -s out ]
    grep -q '^    mask simcse |$' err
    use=$(sed -n 's/^llm2vec: done. Embed with: //p' err)
    [ "$use" = "tok -m $VP_MODEL --adapter run < texts.jsonl | fwd | pool" ]
    head -n 3 "$corpus" >texts.jsonl
    eval "$use" >trained.vp
    eval "${use/ --adapter run/}" >untrained.vp
    tok -m run <texts.jsonl | fwd | pool | peek --diff trained.vp -
    (unset VP_MODEL && tok -m run <texts.jsonl | fwd | pool) | peek --diff trained.vp -
    peek trained.vp | grep -q '"attention":"bi".*"pooling":"mean"'
    expect 3 peek --diff trained.vp untrained.vp
}

@test "three stages, stacked: piped gives the bytes of fused, and the adapters load" {
    for way in '' --piped; do
        # shellcheck disable=SC2086
        expect 0 llm2vec all -o "run$way" --text "$corpus" --pairs pairs.jsonl "${small[@]}" $way
        [ ! -s out ]
        [ "$(grep -vc '^tok: ' err)" -eq 0 ]
    done
    for stage in mntp simcse supervised; do
        same_adapter run/$stage run--piped/$stage
        [ "$(grep -c '"program":"step","event":"step"' run/$stage/log.jsonl)" -eq 3 ]
    done
    grep -A 3 '"adapters"' run/supervised/train.json | tr -d ' \n' | grep -q '\["run/mntp","run/simcse"\]'
    tok --adapter run/mntp --adapter run/simcse --adapter run/supervised <"$corpus" | fwd | pool >trained.vp
    tok -m run/supervised <"$corpus" | fwd | pool | peek --diff trained.vp - # the three of them
    peek trained.vp | grep -q '^batch 0: B 60'
}

@test "three stages that go on with one adapter, without pairs two" {
    llm2vec all -o run --text "$corpus" --sentences "$corpus=0.5" --pairs pairs.jsonl "${small[@]}" --one-adapter
    grep -q '"adapters": \[\]' run/supervised/train.json
    llm2vec all -o two --text "$corpus" --sentences "$corpus=0.5" "${small[@]}" --one-adapter
    same_adapter run/simcse two/simcse
    [ ! -e two/supervised ]
    llm2vec supervised -o three pairs.jsonl --continue two/simcse "${small[@]}"
    same_adapter run/supervised three
}

@test "an adapter as a model whose base or adapter below is not here, or another, says so" {
    cp -r "$VP_MODEL" other
    llm2vec mntp -o base "$corpus" "${small[@]}" -m other
    llm2vec simcse -o top "$corpus" --adapter base "${small[@]}" -m other
    mv base elsewhere
    expect 3 tok -m top --lines </dev/null
    grep -q "^tok: top: the adapter 'base' below it is not here" err
    printf '\1' | dd of=other/model.safetensors bs=1 seek=4000 conv=notrunc status=none
    expect 3 tok -m elsewhere --lines </dev/null
    grep -q "^tok: elsewhere: it was trained on a model with fingerprint" err
    rm -r other
    expect 3 tok -m elsewhere --lines </dev/null
    grep -q "^tok: elsewhere: an adapter whose model .* is not here: give the model with -m" err
}

@test "a stage on top of an adapter that stays as it is" {
    llm2vec mntp -o base "$corpus" "${small[@]}"
    cp base/adapter_model.safetensors before
    llm2vec simcse -o top "$corpus" --adapter base "${small[@]}"
    cmp before base/adapter_model.safetensors
    grep -A 1 '"adapters"' top/train.json | grep -q '"base"'
}

@test "a finished run is refused, with --resume there is nothing to do, with more steps it goes on" {
    llm2vec simcse -o run "$corpus" "${small[@]}"
    cp run/adapter_model.safetensors before
    expect 2 llm2vec simcse -o run "$corpus" "${small[@]}"
    [ "$(wc -l <err)" -eq 1 ]
    grep -q "^step: 'run' holds a run" err
    llm2vec simcse -o run "$corpus" "${small[@]}" --resume
    cmp before run/adapter_model.safetensors
    llm2vec simcse -o run "$corpus" "${small[@]}" --resume --steps 5
    grep -q '"step":4,' run/log.jsonl
}

@test "killed and resumed gives the bytes of an undisturbed run: mntp" {
    long=("$corpus" --steps 60 --batch 4 --length 32 --checkpoint-every 1 -q)
    llm2vec mntp -o undisturbed "${long[@]}"
    killed_and_resumed llm2vec mntp "${long[@]}"
    same_adapter run undisturbed
}

@test "killed and resumed gives the bytes of an undisturbed run: supervised, piped" {
    long=(pairs.jsonl --steps 60 --batch 4 --length 32 --checkpoint-every 1 -q)
    llm2vec supervised -o undisturbed "${long[@]}"
    killed_and_resumed llm2vec supervised "${long[@]}" --piped
    same_adapter run undisturbed
}

@test "what fails says so once, and its status is the pipeline's" {
    expect 2 llm2vec simcse -o run "$corpus" "${small[@]}" --lr -1
    [ "$(cat err)" = "step: --lr: '-1' is below 0" ]
    expect 2 llm2vec simcse -o run "$corpus" "${small[@]}" --piped --attention sideways
    [ "$(head -n 1 err | cut -d : -f 1)" = fwd ]
    expect 4 llm2vec simcse -o run absent.txt "${small[@]}"
    grep -q "^mix: cannot open 'absent.txt'" err
    echo '{"query":"a"}' >broken.jsonl
    expect 3 llm2vec supervised -o other broken.jsonl "${small[@]}" --batch 1
    expect 3 llm2vec simcse -o other "$corpus" "${small[@]}" --decay-steps 3epochs --batch 1000
    [ "$(wc -l <err)" -eq 1 ]
    grep -q '^mix: ' err
}

@test "an interrupt stops all of it and says how to go on" {
    need_terminal
    # once a step is logged: before, the script may not have come to its trap; exec, so that it leads the group
    cat >interrupted <<'END'
until_it_trains() { for _ in {1..600}; do if [ -s run/log.jsonl ]; then return; fi; sleep 0.1; done; }
{ until_it_trains; kill -INT -- -$$; } & exec "$@"
END
    script -qec "exec bash interrupted $REPO/pipelines/llm2vec mntp -o run $corpus --steps 100000 --batch 4 --length 32" /dev/null \
        >screen </dev/null || true
    grep -q 'llm2vec: interrupted: the same command with --resume' screen
    flock -n run true # nobody trains there
}

@test "the presets are the published settings" {
    preset() { llm2vec "$1" --preset "$2" -o run --batch 4 "${@:3}" -n; }
    preset mntp sheared-llama-1.3b "$corpus" >out
    grep -q 'tok .* --pack 512 --batch 4 --steps 1000 ' out
    grep -q 'mask mntp --rate 0.2 --kind bert ' out
    tr -d '\\\n' <out | tr -s ' ' | grep -q 'r=16,alpha=32,dropout=0.05 --lr 5e-5 --warmup 0 '
    preset mntp mistral-7b "$corpus" | grep -q 'mask mntp --rate 0.8 --kind all '
    llm2vec simcse --preset llama-2-7b -o run --decay-steps 9 "$corpus" -n >out
    grep -q -- '--batch 128 --steps 1000' out
    grep -q -- '--scale 20 --attention-dropout 0.3' out
    llm2vec supervised --preset llama-3-8b -o run --decay-steps 9 pairs.jsonl -n >out
    grep -q -- '--batch 512 --steps 1000 --batches same' out
    grep -qF -- "--query-template \$'<|start_header_id|>user<|end_header_id|>\\n\\n{instruction}; {text}<|eot_id|>'" out
    tr -d '\\\n' <out | grep -q -- '--lr 2e-4 --warmup 300'
}

@test "planned epochs become steps, at least those that are made" {
    yes 'a b c' | head -n 1000 >lines.txt
    llm2vec simcse -o run lines.txt --batch 4 --steps 5 --decay-steps 3epochs -n | grep -q -- '--decay-steps 750 '
    llm2vec simcse -o run lines.txt --batch 4 --steps 2000 --decay-steps 3epochs -n | grep -q -- '--decay-steps 2000 '
    blocks=$(mix lines.txt | tok --pack 8 --batch 1 | peek --jsonl --columns row | grep -c row)
    llm2vec mntp -o run lines.txt --batch 2 --length 8 --steps 5 --decay-steps 2epochs -n | grep -q -- "--decay-steps $blocks "
}

@test "a preset of one's own, and nothing of the environment" {
    printf 'lora=r=4\nsteps=2\nbatch=3\nlength=16\nlr=0.5\nseed=7\n' >mine
    lr=9 mntp_steps=77 llm2vec mntp --preset ./mine -o run "$corpus" -q
    grep -q '"r": 4,' run/adapter_config.json
    [ "$(grep -c '"event":"step"' run/log.jsonl)" -eq 2 ]
}
