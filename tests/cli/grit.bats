# GRIT on a decoder of two layers: formats, which tokens are answers, joint steps fused and piped, either loss alone, answers
# against a reference (KTO), and pipelines/grit, killed and resumed. Gradients by differences are in tests/unit/test_grit.c.
# also under sanitizers
load common

grit() { "$REPO/pipelines/grit" "$@"; }

setup() {
    mkdir tiny
    cp "$REPO"/tests/golden/llama/{config.json,model.safetensors} "$REPO/tests/pipelines/tokenizer.json" tiny/
    echo '{"bos_token": "<s>", "eos_token": "</s>"}' >tiny/tokenizer_config.json
    for i in $(seq 12); do
        echo "{\"query\":[\"Find: \",\"river $i\"],\"pos\":[[\"\",\"river $((i * 7 % 13)) runs\"],[\"x\",\"second\"]],\"neg\":[[\"\",\"dam $i\"]]}"
    done >pairs.jsonl
    {
        for i in 1 2 3 4; do
            echo "{\"messages\":[{\"role\":\"system\",\"content\":\"Be kind.\"},{\"role\":\"user\",\"content\":\"Say $i \"},{\"role\":\"assistant\",\"content\":\" $i it is \"},{\"role\":\"user\",\"content\":\"more\"},{\"role\":\"assistant\",\"content\":\"no\"}]}"
        done
        echo '{"text":["Hi","Hello there"]}'
    } >chats.jsonl
    for i in 1 2 3 4 5 6; do
        echo "{\"prompt\":\"Say $i\",\"completion\":\"$i it is\",\"label\":$([ $((i % 2)) = 1 ] && echo true || echo 0)}"
    done >answers.jsonl
    files=(--pairs pairs.jsonl --chats chats.jsonl --answers answers.jsonl)
    small=(--steps 3 --batch 4 --threads 1 -q)
}

# feed OPTION...: joint steps.
feed() { mix pairs.jsonl --batch 4 --generative chats.jsonl --generative-batch 2 --steps 3 "$@" | tok -m tiny --chat grit; }
joint() { step --objective grit --pool mean --attention bi --scale 50 --lora r=2,alpha=4 --lr 1e-2 --threads 1 -q "$@"; }
# The tokens that stand for this text, special words and all.
ids_of() { tok -m tiny --specials none --chat none --text | peek --jsonl --columns ids; }
column() { peek --jsonl --columns "$1" "${2:--}"; }

@test "embeddings: <s><|user|>, the instruction stripped, <|embed|>; only the text is kept" {
    printf '{"text":"<s><|user|>\\nFind\\n<|embed|>\\nriver"}\n{"text":"<s><|embed|>\\nriver"}\n' | ids_of >want
    echo '{"text":"river"}' >texts
    tok -m tiny --chat grit --query --instruction $' :Find \n' texts >with.vp
    tok -m tiny --chat grit texts >without.vp
    cat <(column ids with.vp) <(column ids without.vp) | diff want -
    for f in with without; do [[ $(column keep $f.vp) =~ :\[0[0,]*(,1)+\]\}$ ]]; done
    [ "$(column keep with.vp | tr -cd 1 | wc -c)" -eq "$(column keep without.vp | tr -cd 1 | wc -c)" ]
    # an index remembers the format, and an instruction of a record counts as one that is asked for
    echo '{"query":[" :Find","river"],"pos":"p","neg":"n"}' | tok -m tiny --chat grit --batch 1 | column ids | head -n 1 | diff <(head -n 1 want) -
    tok -m tiny --chat grit texts | fwd --attention bi | pool mean | knn add index
    echo river | tok -m index --lines --query | column ids | diff <(tail -n 1 want) -
    # a few-shot instruction, for retrieval or not, is as any other: whatever its lines and examples are, the text alone counts
    for shot in 'you should retrieve "rain"' 'it would match with "rain"'; do
        task=$'Find\n\nFor example given "river", '$shot
        printf '{"text":"<s><|user|>\\n%s\\n<|embed|>\\nriver"}\n' "$(python3 -c 'import json, sys; print(json.dumps(sys.argv[1])[1:-1])' "$task")" |
            ids_of >shot
        tok -m tiny --chat grit --query --instruction "$task" texts >few.vp
        column ids few.vp | diff shot -
        python3 - "$(column keep few.vp)" "$(column keep with.vp)" <<'PY'
import json, sys
few, one = (json.loads(s)["keep"] for s in sys.argv[1:])
n = sum(one)
assert few == [0] * (len(few) - n) + [1] * n and len(few) > len(one) + 10, few
PY
    done
    # the ends of turns that GRIT was compared with
    echo '{"text":"<s><|user|>\nFind</s>\n<|embed|>\nriver"}' | ids_of >want
    tok -m tiny --chat zephyr --query --instruction Find texts | column ids | diff want -
}

@test "conversations: turns joined, answers stripped and closed; what is kept are they and their ends" {
    head -n 1 chats.jsonl | tok -m tiny --chat grit --batch 1 >row.vp
    printf '{"text":"<s><|user|>\\nBe kind.\\nSay 1 \\n<|assistant|>\\n1 it is</s>\\n<|user|>\\nmore\\n<|assistant|>\\nno</s>"}\n' | ids_of >want
    column ids row.vp | diff want -
    [ "$(column role row.vp)" = '{"role":3}' ]
    for part in '<s><|user|>\nBe kind.\nSay 1 \n<|assistant|>\n' '1 it is</s>' '\n<|user|>\nmore\n<|assistant|>\n' 'no</s>'; do
        echo "{\"text\":\"$part\"}"
    done | ids_of | tr -cd ',\n' | awk '{ for (i = 0; i <= length; i++) { printf "%s%d", sep, (NR + 1) % 2; sep = "," } }' >kept
    column keep row.vp | diff <(echo "{\"keep\":[$(cat kept)]}") -
    # the zephyr format closes users' turns, too; a format of the model's own is not asked for
    head -n 1 chats.jsonl | sed 's/{"role":"system"[^}]*},//' | tok -m tiny --chat zephyr --batch 1 | column ids >got
    printf '{"text":"<s><|user|>\\nSay 1 </s>\\n<|assistant|>\\n1 it is</s>\\n<|user|>\\nmore</s>\\n<|assistant|>\\nno</s>"}\n' | ids_of | diff - got
    # a text alone, where mix says so, is generated as a whole
    echo '{"text":"river"}' >alone.jsonl
    mix pairs.jsonl --generative alone.jsonl --steps 1 | tok -m tiny --chat grit | column keep | tail -n 1 | grep -Eq ':\[0(,1)+\]'
}

@test "a model without <s> and </s>: its own BOS and EOS" {
    sed -i 's/"<s>"/"<begin>"/g; s/"<\/s>"/"<end>"/g' tiny/tokenizer.json tiny/tokenizer_config.json
    head -n 1 chats.jsonl | tok -m tiny --chat grit --batch 1 --text | column text | grep -q '"<begin><|user|>.*1 it is<end>.n.*no<end>"'
    echo '{"text":"river"}' | tok -m tiny --chat grit | column ids | grep -q '\[1,30,'
}

@test "what is cut, and what goes: instructions that leave no room, conversations without an answer" {
    printf '%s\n' '{"query":["a very long instruction","q"],"pos":"p"}' '{"query":"q","pos":"p"}' >long.jsonl
    tok -m tiny --chat grit --batch 2 --max-len 30 --query-max-len 24 long.jsonl 2>err | peek >shown
    grep -q '1 records without room for a text were left out' err
    grep -q '^  skipped *1' shown
    [ "$(grep -c '^  rows *2' shown)" -eq 2 ]
    printf '%s\n' '{"text":["a long prompt that fills it","b"]}' '{"text":["q","b c d e f"]}' |
        tok -m tiny --chat grit --batch 2 --max-len 20 --gen-max-len 24 -q >cut.vp
    [ "$(column ids cut.vp | tr -cd , | wc -c)" -eq 23 ]
    # steps that lose all examples, all conversations, or both
    printf '%s\n' '{"query":["a very long instruction","q"],"pos":"p","neg":"n"}'{,} >none.jsonl
    printf '%s\n' '{"text":["a very long prompt that goes on and on and on until it fills the length","b"]}'{,} >nochat.jsonl
    for inputs in 'none chats' 'pairs nochat' 'none nochat'; do
        rm -rf fused piped
        mix "${inputs% *}.jsonl" --batch 2 --generative "${inputs#* }.jsonl" --generative-batch 2 --steps 2 |
            tok -m tiny --chat grit --query-max-len 24 --gen-max-len 60 -q | mask grit >steps.vp
        joint --out fused <steps.vp
        fwd --attention bi --threads 1 --follow piped <steps.vp | pool mean | loss grit --scale 50 |
            step --lora r=2,alpha=4 --lr 1e-2 --threads 1 -q --out piped
        cmp fused/adapter_model.safetensors piped/adapter_model.safetensors
    done
    # ten characters for each token of the largest limit, before anything else
    printf '{"text":"%0500d"}\n' 0 | tok -m tiny --chat grit --max-len 30 -q --text >digits.vp
    printf '{"text":"%0300d"}\n' 0 | tok -m tiny --chat grit --max-len 30 -q | column ids | diff - <(column ids digits.vp)
}

@test "mix: conversations behind every step's examples; the shorter stream begins again" {
    feed() { mix pairs.jsonl --batch 4 --generative chats.jsonl --generative-batch 2 "$@"; }
    feed >whole
    head -n 1 whole | grep -q '"batch":6,.*"steps":3,.*"generative":2,"beside":'
    sed 1d whole | awk '/"_vp"/ { next } { print ($0 ~ /"query"/) == ((NR - 1) % 6 < 4) }' | sort -u | grep -qx 1
    # three steps use six of five conversations
    [ "$(grep -c '"messages"\|"text"' whole)" -eq 6 ]
    [ "$(grep '"messages"\|"text"' whole | sort -u | wc -l)" -eq 5 ]
    # alone they are the same
    grep '"query"' whole | diff - <(mix pairs.jsonl --batch 4 | grep -v _vp)
    feed --start-step 2 | sed '1d;$d' | diff - <(sed '$d' whole | tail -n 6)
    [ "$(mix chats.jsonl --batch 2 --generative pairs.jsonl --generative-batch 2 | grep -c '"query"')" -eq 12 ]
    : >empty.jsonl
    refused 3 mix pairs.jsonl --generative empty.jsonl
}

@test "mask: frames of one kind, conversations first; the reductions of the worked example" {
    feed | mask grit --reduce token --batch-tokens 120 >steps.vp
    column role,row,unit,target steps.vp | python3 -c '
import json, sys
rows = [json.loads(line) for line in sys.stdin]
assert len(rows) == 3 * (4 * 3 + 2)
for r in rows:
    generative = r["role"] == 3
    assert generative == (r["row"] >= 12), r
    assert (max(r["target"]) >= 0) == generative, r
for s in range(3):
    step = rows[14 * s : 14 * (s + 1)]
    units = [{r["unit"] for r in step if (r["role"] == 3) == g} for g in (True, False)]
    assert max(units[0]) + 1 == min(units[1]), units'
    # tokens 0.5 1.0 1.5 and 2.0: 2.5, 1.5, one part 1.25, two parts 1.5
    printf '{"text":["q","ab"]}\n{"text":["q",""]}\n' | tok -m tiny --chat grit --batch 2 >two.vp
    for reduce in token sample mixed=1 mixed=2; do
        mask generate --reduce $reduce <two.vp >m.vp
        column row,target,weight m.vp >rows
        echo "$reduce $(peek m.vp | awk '$1 == "weight_sum" { print $2 }') $(tr '\n' ' ' <rows)"
    done | python3 -c '
import json, sys
for line, want in zip(sys.stdin, (2.5, 1.5, 1.25, 1.5)):
    name, total, rest = line.split(" ", 2)
    decoder, losses, got = json.JSONDecoder(), {0: [0.5, 1.0, 1.5], 1: [2.0]}, 0
    for part in rest.split():
        r = decoder.decode(part)
        weights = [w for t, w in zip(r["target"], r["weight"]) if t >= 0]
        got += sum(w * x for w, x in zip(weights, losses[r["row"]], strict=True))
    assert abs(got / float(total) - want) < 1e-6, (line, got / float(total))'
    # of several answers the last one, to which all before it is open
    head -n 1 chats.jsonl | tok -m tiny --chat grit --batch 1 | mask generate --prefix-lm >prefix.vp
    column prefix,keep,target prefix.vp | python3 -c '
import json, sys
r = json.loads(sys.stdin.readline())
n = r["prefix"]
assert not r["keep"][n - 1] and all(r["keep"][n:]) and sum(r["keep"][:n]) > 0, r
assert [t >= 0 for t in r["target"]] == [n - 1 <= i < len(r["target"]) - 1 for i in range(len(r["target"]))], r'
    fwd -m tiny <prefix.vp | column hidden >open
    head -n 1 chats.jsonl | tok -m tiny --chat grit --batch 1 | mask generate | fwd | column hidden >causal
    run ! cmp -s open causal
    refused 2 mask pairs --prefix-lm <prefix.vp
    feed >ids.vp
    expect 3 mask pairs <ids.vp
    grep -q 'rows of role 3, to be generated: mask grit takes them, too' err
    expect 3 mask kto <ids.vp
    grep -q 'rows that are no conversations' err
}

@test "piped gives the bytes of fused; one loss alone those of its objective" {
    feed | mask grit --reduce mixed=2 >steps.vp
    joint --out fused --lambda-gen 0.5 --log log.jsonl <steps.vp
    grep -q '"step":0,"loss":[0-9.]*,"loss_gen":[0-9.]*,' log.jsonl
    fwd --attention bi --threads 1 --follow piped <steps.vp | pool mean | loss grit --scale 50 --lambda-gen 0.5 |
        step --lora r=2,alpha=4 --lr 1e-2 --threads 1 -q --out piped
    cmp fused/adapter_model.safetensors piped/adapter_model.safetensors
    joint --out small --lambda-gen 0.5 --batch-tokens 64 --activations 1 <steps.vp
    cmp fused/adapter_model.safetensors small/adapter_model.safetensors
    joint --out rep --lambda-gen 0 <steps.vp
    mix pairs.jsonl --batch 4 --steps 3 | tok -m tiny --chat grit | mask pairs | joint --objective infonce --out infonce
    cmp rep/adapter_model.safetensors infonce/adapter_model.safetensors
    joint --out gen --lambda-rep 0 <steps.vp
    joint --objective ntp --pool pick --out ntp <steps.vp
    cmp gen/adapter_model.safetensors ntp/adapter_model.safetensors
    run ! cmp -s fused/adapter_model.safetensors ntp/adapter_model.safetensors
    # attention of what is embedded has no part in what is generated
    joint --out causal --lambda-rep 0 --attention causal <steps.vp
    cmp gen/adapter_model.safetensors causal/adapter_model.safetensors
    refused 3 step --out none --objective infonce --attention bi --pool mean <steps.vp
    grep -q 'of role 3, to be generated: infonce has no loss for them, grit has' err
}

@test "all weights and the output head, piped and fused" {
    feed | mask grit >steps.vp
    full=(--full --train head --lr 1e-3 --threads 1 -q)
    step --objective grit --pool mean --attention bi --scale 50 "${full[@]}" --out fused <steps.vp
    fwd --attention bi --threads 1 --follow piped <steps.vp | pool mean | loss grit --scale 50 --follow piped |
        step "${full[@]}" --out piped
    cmp fused/model.safetensors piped/model.safetensors
    mix answers.jsonl --batch 3 | tok -m tiny --chat grit | mask kto | fwd | pool pick | loss ntp --reference >answers.vp
    step --objective kto "${full[@]}" --out answers <answers.vp
    fwd --follow again --threads 1 <answers.vp | pool pick | loss kto --follow again | step "${full[@]}" --out again
    cmp answers/model.safetensors again/model.safetensors
}

@test "kto: prompts with other rows' answers, and a loss of 1/2 where nothing was learnt" {
    mix answers.jsonl --batch 3 --no-shuffle | tok -m tiny --chat grit | mask kto >answers.vp
    column view,score,target answers.vp | python3 -c '
import json, sys
rows = [json.loads(line) for line in sys.stdin]
assert [r["view"] for r in rows] == 2 * [0, 0, 0, 1, 1, 1] and [r["score"] for r in rows[:6]] == [1, 0, 1, 1, 0, 1]
answer = lambda r: [t for t in r["target"] if t >= 0]
for s in (0, 6):
    for i in range(3): assert answer(rows[s + 3 + i]) == answer(rows[s + (i + 1) % 3]), i'
    fwd -m tiny <answers.vp | pool pick | loss ntp --reference | step --objective kto --lora r=2,alpha=4 --lr 1e-1 --optimizer rmsprop -q --out run --log log.jsonl
    grep -q '"step":0,"loss":0.50000[0-9]*,' log.jsonl
    refused 3 step --objective kto --out none <answers.vp
    grep -q "no column 'reference'" err
    sed 's/"label".*/"other":1}/' answers.jsonl >bare.jsonl
    tok -m tiny --chat grit --batch 3 bare.jsonl | mask kto | fwd | pool pick | loss ntp --reference | refused 3 step --objective kto --schedule constant --out bare
    grep -q "no column 'score'" err
    printf '{"prompt":"a","completion":"b","label":2}\n' | expect 3 tok -m tiny --chat grit --batch 1
    head -n 1 answers.jsonl | tok -m tiny --chat grit --batch 1 | expect 3 mask kto
}

@test "rows answers: UltraFeedback's pairs, a row a side; tok reads them" {
    printf '%s\n' '{"prompt":"Say 1","chosen":[{"role":"user","content":"Say 1"},{"role":"assistant","content":"1 "}],"rejected":[{"role":"user","content":"Say 1"},{"role":"assistant","content":"2"}]}' \
        '{"prompt":"Say 2","chosen":"2","rejected":" "}' '{"prompt":"Say 3","completion":"3","label":0}' >preferences.jsonl
    "$REPO/pipelines/rows" answers preferences.jsonl >rows.jsonl
    tok -m tiny --chat grit --batch 4 --text rows.jsonl | peek --jsonl --columns score,text >got
    while read -r score n answer; do
        echo "{\"text\":\"<s><|user|>\\nSay $n\\n<|assistant|>\\n$answer</s>\",\"score\":$score}"
    done <<'END' >want
1 1 1
0 1 2
1 2 2
0 3 3
END
    diff <(sed 's/\({\)\("score":[01]\),\(.*\)}/\1\3,\2}/' got) want
}

@test "pipelines/grit: both stages, piped and fused; what comes out needs no options" {
    expect 0 grit all -m tiny -o run "${files[@]}" "${small[@]}" --generative-batch 2
    [ ! -s out ] && [ ! -s err ]
    grit all -m tiny -o piped "${files[@]}" "${small[@]}" --generative-batch 2 --piped
    for stage in joint kto; do
        cmp run/$stage/adapter_model.safetensors piped/$stage/adapter_model.safetensors
        [ "$(grep -c '"program":"step","event":"step"' run/$stage/log.jsonl)" -eq 3 ]
    done
    echo '{"text":"river"}' >texts
    tok -m tiny --adapter run/joint --adapter run/kto texts | fwd | pool >vectors.vp
    peek vectors.vp | grep -q '"attention":"bi".*"chat":"grit".*"pooling":"mean"'
    merge -m tiny --adapter run/joint --adapter run/kto --dtype f32 --out merged
    tok -m merged texts | fwd | pool | column ids | diff <(column ids vectors.vp) -
    echo 'Say 3' | gen -m merged --lines --chat grit --greedy --max-tokens 4 | grep -q '"tokens":4'
    grit joint -m tiny -o whole --chats chats.jsonl pairs.jsonl "${small[@]}" --generative-batch 2 --full
    grit kto -m whole -o tuned answers.jsonl "${small[@]}" --full
    grep -q '"chat": "grit"' tuned/vecpipe_config.json
}

@test "mixed attention: an instruction that sees all of itself before a causal text, a prompt before its answer" {
    mix pairs.jsonl --batch 4 --generative chats.jsonl --generative-batch 2 --steps 3 | tok -m tiny --chat grit --prefix >open.vp
    column prefix,keep,role open.vp | python3 -c '
import json, sys
rows = [json.loads(line) for line in sys.stdin]
assert {r["role"] for r in rows} >= {0, 1, 3}
for r in rows:
    assert r["prefix"] == (0 if r["role"] == 3 else r["keep"].index(1)), r
assert any(r["prefix"] > 5 for r in rows)'
    mask grit <open.vp >both.vp
    column prefix both.vp | grep -q '"prefix":[1-9]'
    mask grit --prefix-lm <open.vp | column prefix,role | grep '"role":3' >answers
    run ! grep -q '"prefix":0' answers
    mask grit --prefix-lm <open.vp | column prefix,role | grep -v '"role":3' | diff - <(column prefix,role both.vp | grep -v '"role":3')
    # the instruction sees itself: by states, another last token of it changes those before it, and the text still none
    # of what stands before it
    states() { echo '{"text":"river runs"}' | tok -m tiny --chat grit --query --instruction "$1" "${@:2}" | fwd --attention causal | column hidden,keep; }
    for option in '' --prefix; do
        # shellcheck disable=SC2086
        { states 'abc' $option; states 'abd' $option; } >"states$option"
    done
    python3 - <<'PY'
import json
for name, opened in ("states", False), ("states--prefix", True):
    a, b = (json.loads(line) for line in open(name))
    same = [x == y for x, y in zip(a["hidden"], b["hidden"], strict=True)]
    assert same[0] == (not opened), (name, same)
    assert a["keep"] == b["keep"] and not same[a["keep"].index(1)]
PY
    # the text is causal in both: its tokens do not see those behind them
    for text in 'river runs' 'river flow'; do
        echo "{\"text\":\"$text\"}" | tok -m tiny --chat grit --query --instruction abc --prefix | fwd --attention causal | column hidden,keep
    done | python3 -c '
import json, sys
a, b = (json.loads(line) for line in sys.stdin)
first = a["keep"].index(1)
assert a["hidden"][: first + 2] == b["hidden"][: first + 2] and a["hidden"][-1] != b["hidden"][-1]'
    # and with attention to both sides the instruction is causal: neither its last token nor the text changes its first
    for option in '' --prefix; do
        for text in 'river 1' 'river 2'; do
            for asked in abc abd; do
                # shellcheck disable=SC2086
                echo "{\"text\":\"$text\"}" | tok -m tiny --chat grit --query --instruction $asked $option | fwd --attention bi |
                    column hidden,keep,ids
            done
        done >"bi$option"
    done
    python3 - <<'PY'
import json
for name, causal in ("bi", False), ("bi--prefix", True):
    rows = [json.loads(line) for line in open(name)]
    for a in rows:
        for b in rows:
            if a["ids"] == b["ids"]:
                continue
            begin = a["keep"].index(1)
            assert b["keep"].index(1) == begin
            differ = next(i for i, pair in enumerate(zip(a["ids"], b["ids"])) if pair[0] != pair[1])
            same = [x == y for x, y in zip(a["hidden"], b["hidden"], strict=True)]
            before = min(differ, begin)
            assert same == [causal] * before + [False] * (len(same) - before), (name, same, differ, begin)
PY
    # each code its own adapter, piped and fused; what comes out needs no options
    for code in bbcc cccc bccc bbbc ccbc bcbc cbcc cbbc; do
        expect 0 grit joint -m tiny -o $code --chats chats.jsonl pairs.jsonl "${small[@]}" --generative-batch 2 --attention $code --lr 1e-2
    done
    [ "$(sha256sum ??[bc]c/adapter_model.safetensors | cut -d ' ' -f 1 | sort -u | wc -l)" -eq 8 ]
    for code in bcbc cbcc; do
        grit joint -m tiny -o again-$code --chats chats.jsonl pairs.jsonl "${small[@]}" --generative-batch 2 --attention $code --lr 1e-2 \
            --piped
        cmp $code/adapter_model.safetensors again-$code/adapter_model.safetensors
    done
    grit joint -m tiny -o plain --chats chats.jsonl pairs.jsonl "${small[@]}" --generative-batch 2 --attention bi --lr 1e-2
    cmp bbcc/adapter_model.safetensors plain/adapter_model.safetensors
    echo '{"text":"river"}' >texts
    tok -m tiny --adapter bccc --query --instruction Find texts >ids.vp
    column prefix ids.vp | grep -q '"prefix":[1-9]'
    fwd <ids.vp | pool >emb.vp
    peek emb.vp | grep -q '"attention":"causal".*"prefix":true'
    tok -m tiny --adapter cbcc texts | fwd | pool | peek | grep -q '"attention":"bi".*"prefix":true'
    merge -m tiny --adapter bccc --dtype f32 --out merged
    tok -m merged --query --instruction Find texts | column prefix | diff - <(column prefix ids.vp)
    tok -m tiny --adapter bccc texts | fwd | pool | knn add index
    tok -m index --query --instruction Find texts | column prefix | diff - <(column prefix ids.vp)
    tok -m tiny --adapter cccc texts | peek >shown
    run ! grep -q prefix shown
    grit all -m tiny -o all "${files[@]}" "${small[@]}" --generative-batch 2 --attention bccc
    grep -q '"prefix": true' all/kto/vecpipe_config.json
    # what no column says is refused by name
    for code in bbcb bbbb; do
        refused 2 grit joint -m tiny -o no --chats chats.jsonl pairs.jsonl --attention $code
        grep -qx "grit: attention '$code': an answer sees what stands before it" err
    done
    for code in b bbc bbccc abcc both ''; do refused 2 grit joint -m tiny -o no --chats chats.jsonl pairs.jsonl --attention "$code"; done
    [ ! -e no ]
    expect 2 tok -m tiny --prefix texts
    grep -q -- '--prefix: only with --chat grit or zephyr' err
}

@test "killed and resumed gives the bytes of an undisturbed run" {
    long=(-m tiny --chats chats.jsonl pairs.jsonl --steps 60 --batch 4 --generative-batch 2 --threads 1 --checkpoint-every 1 -q)
    grit joint -o undisturbed "${long[@]}"
    killed_and_resumed grit joint "${long[@]}"
    killed_and_resumed grit joint "${long[@]}" --piped
}

@test "wrong usage is 2, in one line; --dry-run prints what gives the same adapter" {
    while read -r line; do
        # shellcheck disable=SC2086
        refused 2 grit $line || { echo "$line"; false; }
    done <<END
jont
joint
joint -m tiny -o run pairs.jsonl
joint -m tiny -o run --chats chats.jsonl pairs.jsonl --beta 1
kto -m tiny -o run --chats chats.jsonl answers.jsonl
kto -m tiny -o run answers.jsonl --full --continue run
all -m tiny -o run --pairs pairs.jsonl --chats chats.jsonl
END
    refused 2 loss grit --lambda-rep -1
    refused 2 loss kto --reference
    refused 2 mix pairs.jsonl --generative chats.jsonl --generative-batch 0
    expect 3 tok -m tiny --chat grit chats.jsonl
    grep -q 'chats.jsonl:1: a conversation is for training steps: --batch' err
    echo '{"text":"a text","messages":[]}' | tok -m tiny | peek | grep -q '^  rows *1'
    expect 3 tok -m tiny --batch 1 chats.jsonl
    grep -q 'chats.jsonl:1: a conversation, and the model has no chat format: --chat grit' err
    expect 0 grit joint -m tiny -o 'a run' --chats chats.jsonl pairs.jsonl "${small[@]}" --generative-batch 2 --dry-run
    [ ! -e 'a run' ]
    bash -euo pipefail out
    grit joint -m tiny -o other --chats chats.jsonl pairs.jsonl "${small[@]}" --generative-batch 2
    cmp 'a run/adapter_model.safetensors' other/adapter_model.safetensors
    grit --help --preset grit | grep -q '^  *--reduce KIND .*\[mixed=8\]$'
}
