# gen: what it writes, what an answer does not depend on, where it ends, what is refused. Arithmetic and tokens of every
# decoder are tests/unit/test_generate's.
# also under sanitizers
load common

# A golden decoder with a tokenizer of its 320 tokens, and prompts.
setup() {
    cp -r "$REPO/tests/golden/llama" tiny
    rm -r tiny/adapter
    python3 - "$REPO/tests/tokenizers/digits.json" >tiny/tokenizer.json <<'PY'
import json, sys
t = json.load(open(sys.argv[1]))
m = t["model"]
m["vocab"] = {k: v for k, v in m["vocab"].items() if v < 320}
parts = lambda x: x.split(" ") if isinstance(x, str) else x
m["merges"] = [x for x in m["merges"] if "".join(parts(x)) in m["vocab"] and all(p in m["vocab"] for p in parts(x))]
t["added_tokens"] = [a for a in t["added_tokens"] if a["id"] < 320]
json.dump(t, sys.stdout)
PY
    export VP_MODEL=tiny
    for i in $(seq 12); do
        echo "{\"id\":\"p$i\",\"source\":{\"n\":$i},\"prompt\":\"$(printf 'some words %.0s' $(seq $((i % 5 + 1))))$((i * 7919))\"}"
    done >prompts
}

# field NAME FILE: a member of every line, one a line, as JSON
field() { python3 -c 'import json, sys; [print(json.dumps(json.loads(l)[sys.argv[1]])) for l in open(sys.argv[2])]' "$@"; }

@test "JSONL in the order of the prompts, with the record's own members" {
    expect 0 gen --max-tokens 10 --logprobs prompts
    [ ! -s err ]
    [ "$(field id out | tr -d '"\n')" = p1p2p3p4p5p6p7p8p9p10p11p12 ]
    [ "$(field source out)" = "$(field source prompts)" ]
    [ "$(field prompt out)" = "$(field prompt prompts)" ]
    python3 - out <<'PY'
import json, math, sys
for line in open(sys.argv[1], encoding="utf-8"):
    r = json.loads(line)
    assert r["tokens"] == len(r["logprobs"]) <= 10 and r["finish"] in ("length", "end"), r
    assert r["finish"] == "end" or r["tokens"] == 10, r
    assert all(0 <= i < 320 and -20 < p < 0 for i, p in r["logprobs"]), r
PY
}

@test "an answer depends on prompt, place and seed, not on batch, threads or a pipe" {
    for how in --greedy '--temperature 1.3 --top-k 50 --top-p 0.9 --repetition-penalty 1.2 --seed 5'; do
        # shellcheck disable=SC2086
        gen $how --max-tokens 20 --logprobs prompts >want
        for batch in 2 5 12; do gen $how --max-tokens 20 --logprobs --batch $batch --threads $((batch % 3 + 1)) <prompts | cmp - want; done
        (head -n 3 prompts; sleep 0.3; tail -n +4 prompts) | gen $how --max-tokens 20 --logprobs --batch 4 | cmp - want
    done
    gen --seed 6 --temperature 1.3 --max-tokens 20 --logprobs prompts >other
    run ! cmp -s other want
    cmp <(gen --temperature 0 prompts) <(gen --greedy --seed 9 prompts)
    for x in 1e-30 1e-38 1e-40; do cmp <(gen --temperature $x prompts) <(gen --greedy prompts); done
    cmp <(gen --top-k 1 --temperature 2 prompts) <(gen --greedy prompts)
}

@test "a model with rows that are no tokens: they have no text; tokens without a row are refused" {
    python3 - <<'PY'
import json
t = json.load(open("tiny/tokenizer.json"))
m = t["model"]
parts = lambda x: x.split(" ") if isinstance(x, str) else x
m["vocab"] = {k: v for k, v in m["vocab"].items() if v < 280}
m["merges"] = [x for x in m["merges"] if "".join(parts(x)) in m["vocab"] and all(p in m["vocab"] for p in parts(x))]
t["added_tokens"].append({**t["added_tokens"][0], "id": 320, "content": "<x>"})
json.dump(t, open("tiny/tokenizer.json", "w"))
PY
    expect 3 gen --lines <<<$'a\nan <x>'
    grep -q '^gen: standard input:2: the tokenizer gives token 320, the model has tokens below 320$' err
    expect 0 gen --temperature 2 --max-tokens 60 --logprobs prompts
    python3 - out <<'PY'
import json, sys
rows = [json.loads(l) for l in open(sys.argv[1], encoding="utf-8")]
assert len(rows) == 12 and any(i >= 280 for r in rows for i, _ in r["logprobs"])
PY
}

@test "--compute: bf16 and i8 are near f32, each with its own bytes" {
    expect 0 gen --help
    grep -q '^  *--compute auto|f32|bf16|i8\( \|$\)' out
    refused 2 gen --compute fp8 prompts
    grep -q "^gen: --compute: " err
    for type in f32 bf16 i8; do gen --greedy --max-tokens 1 --logprobs --compute $type prompts >$type; done
    run ! cmp -s f32 bf16
    run ! cmp -s f32 i8
    python3 - <<'PY'
import json
first = lambda path: [json.loads(l)["logprobs"][0][1] for l in open(path)]
for path, bound in ("bf16", 0.05), ("i8", 0.15):
    worst = max(abs(a - b) for a, b in zip(first("f32"), first(path)))
    assert 0 < worst <= bound, (path, worst)
PY
}

@test "--stop ends an answer before its text, across the borders of tokens" {
    gen --greedy --max-tokens 40 --lines <<<'some words' >whole
    python3 - whole >stop <<'PY'
import json, sys
t = json.loads(open(sys.argv[1]).readline())["text"]
print(t[7:12], end="")
PY
    gen --greedy --max-tokens 40 --lines --stop 'never there' --stop "$(cat stop)" <<<'some words' >out
    python3 - whole out "$(cat stop)" <<'PY'
import json, sys
whole, got = (json.loads(open(p).readline()) for p in sys.argv[1:3])
assert got["finish"] == "stop" and got["text"] == whole["text"][:whole["text"].index(sys.argv[3])], (whole, got)
PY
    gen --greedy --max-tokens 40 --lines --format text --stop "$(cat stop)" <<<'some words' >text
    [ "$(cat text)" = "$(field text out | python3 -c 'import json; print(json.loads(input()))')" ]
}

@test "the end of the model: generation_config.json, then config.json" {
    gen --greedy --max-tokens 30 --logprobs --lines <<<'some words' >whole
    fifth=$(python3 -c 'import json; print(json.loads(open("whole").readline())["logprobs"][4][0])')
    echo "{\"eos_token_id\":[319,$fifth]}" >tiny/generation_config.json
    gen --greedy --max-tokens 30 --lines <<<'some words' >out
    [ "$(field finish out)" = '"end"' ]
    [ "$(field tokens out)" -le 5 ]
    echo '{"eos_token_id":320}' >tiny/generation_config.json
    refused 3 gen --lines <<<'some words'
    grep -q 'generation_config.json: eos_token_id 320 is no token' err
    echo '{"eos_token_id":"x"}' >tiny/generation_config.json
    refused 3 gen --lines <<<'some words'
}

@test "the context ends an answer; a prompt beyond it is refused with its line" {
    long=$(python3 -c 'print("7" * 125)') # 251 tokens
    gen --greedy --lines --max-tokens 100 <<<"$long" >out
    [ "$(field finish out)" = '"context"' ]
    [ "$(field tokens out)" -eq 6 ]
    { head -n 2 prompts; echo "{\"prompt\":\"$long$long\"}"; } >late
    gen --greedy --max-tokens 20 prompts | head -n 2 >first
    for batch in 1 2 5; do
        expect 3 gen --greedy --max-tokens 20 --batch $batch late
        grep -q "^gen: late:3: the prompt has 501 tokens, the model has 256 positions$" err
        cmp out first
    done
    { head -n 1 prompts; sed -n 3p late; echo '{"prompt":["a","b"]}'; sed -n 2p prompts; } >mixed
    expect 0 gen --greedy --max-tokens 20 --batch 2 --skip-bad mixed
    cmp out first
    grep -q '^gen: 2 bad records were skipped$' err
    echo '{"prompt":' >broken
    cat <(head -n 2 prompts) broken | expect 3 gen --greedy --max-tokens 20 --batch 5
    cmp out first
    for id in '"q 7"' 12; do
        sed -n "3s/^{/{\"id\":$id,/p" late >named
        refused 3 gen named
        grep -qx "gen: named:1: '${id//\"/}': the prompt has 501 tokens, the model has 256 positions" err
    done
}

@test "bad input and wrong usage are refused" {
    echo '{"prompt":"a"' >bad
    refused 3 gen bad
    grep -q '^gen: bad:1: ' err
    refused 3 gen <<<'{"text":"a"}'
    grep -q "no 'prompt', and no 'messages'" err
    refused 3 gen <<<'{"prompt":["a","b"]}'
    grep -q 'a conversation: --chat says in which format' err
    for turns in '[]' '{}' '"x"' '[{"role":"robot","content":"x"}]' '[{"role":"user"}]' '[{"role":"assistant","content":"x"}]' \
        '[{"role":"user","content":"x"},{"role":"user","content":"y"}]' '[{"role":"system","content":"x"}]'; do
        refused 3 gen --chat chatml <<<"{\"messages\":$turns}"
        grep -q 'standard input:1: ' err
    done
    refused 3 gen --chat gemma <<<'{"messages":[{"role":"system","content":"x"},{"role":"user","content":"y"}]}'
    refused 3 gen --chat auto <<<'{"prompt":"a"}'
    grep -q 'the model has no chat template' err
    refused 2 gen --chat nonesuch <<<'{"prompt":"a"}'
    refused 2 gen --stop '' --lines <<<a
    refused 2 gen --stop x --stop $'\xaf' --lines <<<a
    grep -q 'stop text 2 is not UTF-8' err
    refused 2 gen --format text --logprobs --lines <<<a
    refused 2 gen --top-p 0 --lines <<<a
    refused 2 gen prompts prompts
    refused 4 gen nowhere
    cp -r "$REPO/tests/golden/bert" bert
    cp tiny/tokenizer.json bert
    refused 3 gen -m bert --lines <<<a
    grep -q 'no output head' err
    { head -n 1 prompts; echo '{"prompt":'; tail -n 1 prompts; } >mixed
    expect 0 gen --skip-bad --max-tokens 2 mixed
    [ "$(wc -l <out)" -eq 2 ]
    grep -q '^gen: 1 bad records were skipped$' err
}

@test "--adapter: as the merged model" {
    merge -m tiny --adapter "$REPO/tests/golden/llama/adapter" --out merged
    gen --adapter "$REPO/tests/golden/llama/adapter" --greedy --max-tokens 3 --logprobs prompts >adapted
    gen -m merged --greedy --max-tokens 3 --logprobs prompts >merged.jsonl
    gen --greedy --max-tokens 3 --logprobs prompts >base
    python3 - <<'PY'
import json
first = lambda path: [json.loads(l)["logprobs"][0][1] for l in open(path)]
a, m, b = first("adapted"), first("merged.jsonl"), first("base")
assert max(abs(x - y) for x, y in zip(a, m)) < 1e-4 and max(abs(x - y) for x, y in zip(a, b)) > 1e-3, (a, m, b)
PY
}

@test "damaged weights are refused" {
    head -c 100000 tiny/model.safetensors >part
    mv part tiny/model.safetensors
    refused 3 gen prompts
}

@test "half a line does not hold up what runs" {
    mkfifo in
    gen --greedy --max-tokens 5 --batch 4 <in >out &
    exec 5>in
    printf '%s\n\n{"id":"p2","prom' "$(head -n 1 prompts)" >&5
    for _ in $(seq 600); do
        [ ! -s out ] || break
        sleep 0.1
    done
    [ "$(field id out)" = '"p1"' ]
    printf 'pt":"a"}\n' >&5
    exec 5>&-
    wait $!
    [ "$(field id out | tr '\n' ' ')" = '"p1" "p2" ' ]
}

@test "nor does half a zstd frame" {
    head -n 1 prompts | zstd -q >whole.zst
    printf '{"id":"p2","prompt":"a","blanks":"%99s"}\n' '' | zstd -q >next.zst # a block that cannot be begun before it is there
    { cat whole.zst; head -c 20 next.zst; } >begin # in one write
    mkfifo in
    gen --greedy --max-tokens 5 --batch 4 <in >out &
    exec 5>in
    cat begin >&5
    for _ in $(seq 600); do
        [ ! -s out ] || break
        sleep 0.1
    done
    [ "$(field id out)" = '"p1"' ]
    tail -c +21 next.zst >&5
    exec 5>&-
    wait $!
    [ "$(field id out | tr '\n' ' ')" = '"p1" "p2" ' ]
}

@test "logits that are not finite end their answer alone" {
    printf '%s\n' some @ words '@@' >lines
    gen --greedy --max-tokens 6 --lines --batch 4 lines | sed '2d;4d' >want
    poison @
    for batch in 1 4; do
        expect 3 gen --greedy --max-tokens 6 --lines --batch $batch lines
        cmp out want
        printf "gen: lines:%d: the model's logits are not finite\n" 4 2 | cmp - err
        expect 3 gen --greedy --max-tokens 6 --batch $batch - <<<'{"id":"q1","prompt":"@"}'
        grep -qx "gen: standard input:1: 'q1': the model's logits are not finite" err
    done
}

@test "a reader that has enough, and a signal: whole lines only" {
    gen --max-tokens 4 prompts | head -n 1 >out
    [ "$(wc -l <out)" -eq 1 ]
    for _ in $(seq 400); do cat prompts; done >many
    gen --max-tokens 30 many >out &
    sleep 1
    kill -TERM $!
    wait $! || [ $? -eq 143 ]
    [ -z "$(tail -c 1 out)" ]
    field text out >/dev/null
}

@test "text as it grows on a terminal, without control characters" {
    need_terminal
    echo 'some words' >words
    script -qec 'gen --greedy --max-tokens 20 --lines --threads 1 words' /dev/null >screen
    [ -s screen ]
    run ! grep -q '"text"' screen
}

@test "on a terminal no progress erases the answers" {
    need_terminal
    echo 'some words' >words
    gen --greedy --max-tokens 200 --format text --lines words | tr '\000-\010\013-\037\177' '?' >want
    script -qec 'gen --greedy --max-tokens 200 --lines words' /dev/null >screen
    python3 - <<'PY'
screen = open("screen", "rb").read().rpartition(b"\x1b[K")[2].replace(b"\r", b"")
want = open("want", "rb").read()
assert screen.strip() == want.strip(), (screen, want)
PY
}

@test "--bos and --chat grit: BOS also where the tokenizer puts none; auto is what the model was trained with" {
    python3 - "$REPO/tests/pipelines/tokenizer.json" >tiny/tokenizer.json <<'PY'
import json, sys
t = json.load(open(sys.argv[1]))
t["post_processor"] = None
json.dump(t, sys.stdout)
PY
    one() { gen --greedy --max-tokens 4 --logprobs "$@"; }
    one --chat grit <<<'{"prompt":"a b"}' >chat
    one --bos <<<'{"prompt":"<|user|>\na b\n<|assistant|>\n"}' >raw
    one <<<'{"prompt":"<|user|>\na b\n<|assistant|>\n"}' >without
    [ "$(field logprobs chat)" = "$(field logprobs raw)" ]
    [ "$(field logprobs raw)" != "$(field logprobs without)" ]
    refused 3 gen --chat auto <<<'{"prompt":"a b"}'
    echo '{"chat":"grit"}' >tiny/vecpipe_config.json
    one --chat auto <<<'{"prompt":"a b"}' | cmp - chat
}

@test "--chat: the format by name, and from the template" {
    chat='{"messages":[{"role":"user","content":"a"}]}'
    echo '{"chat_template":"{{ \"<|user|>\" + x + eos_token }} <|assistant|>"}' >tiny/tokenizer_config.json
    gen --chat auto --greedy --max-tokens 8 <<<"$chat" >auto
    gen --chat zephyr --greedy --max-tokens 8 <<<"$chat" >named
    printf '%s\n' '{"prompt":"<|user|>\na</s>\n<|assistant|>\n"}' | gen --greedy --max-tokens 8 >plain
    [ "$(field text auto)" = "$(field text named)" ]
    [ "$(field text auto)" = "$(field text plain)" ]
    gen --chat zephyr --greedy --max-tokens 8 <<<'{"prompt":["a"]}' >list
    [ "$(field text list)" = "$(field text named)" ]
    for other in 'nothing known' "{{ '<|user|>' + x }} {{ '<|assistant|>' + x + eos_token }}" "<|user|>x<|end|><|assistant|></s>"; do
        echo "{\"chat_template\":\"$other\"}" >tiny/tokenizer_config.json
        refused 3 gen --chat auto <<<"$chat"
        grep -q 'its chat template is none of ' err
    done
}

@test "SmolLM2: the tokens and the texts of transformers, 10 prompts and 10 conversations" {
    need_models
    [[ $VP_BIN != *-sanitize/bin ]] || skip "nothing that the tiny models do not reach"
    golden=$REPO/tests/golden/smollm2.generate.jsonl
    grep '"prompt"' "$golden" >completions
    grep '"messages"' "$golden" >conversations
    gen -m "$SMOLLM2" --greedy --max-tokens 64 --logprobs --batch 10 completions >answers
    gen -m "$SMOLLM2" --chat auto --greedy --max-tokens 64 --logprobs --batch 10 conversations >>answers
    python3 - "$golden" <<'PY'
import json, sys
want, got = ([json.loads(l) for l in open(p, encoding="utf-8")] for p in (sys.argv[1], "answers"))
assert len(want) == len(got) == 20
for w, g in zip(want, got):
    assert w["ids"] == [i for i, _ in g["logprobs"]] and w["answer"] == g["text"], (w["id"], w["answer"], g["text"])
    assert max(abs(a - b) for a, (_, b) in zip(w["logprob"], g["logprobs"])) < 2e-4, w["id"]
PY
}
