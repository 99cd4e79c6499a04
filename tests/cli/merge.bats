# merge: folders that appear whole or not at all, and give what base and adapters give. The arithmetic is
# tests/unit/test_model_merge's.
# also under sanitizers
load common

GOLDEN=$REPO/tests/golden

setup() { sed 's/#.*//' "$REPO/tests/streams/minimal.hex" | tr -d ' \n' | tr a-f A-F | basenc --base16 -d >ids.vp; }

# leftovers: what is left of temporaries
leftovers() { find . -name '*.tmp-*' | grep .; }

@test "a merged folder gives what base and adapter give" {
    for model in llama llama-gqa-tied mistral qwen2; do
        base=$GOLDEN/$model
        expect 0 merge -m "$base" --adapter "$base/adapter" --out "$model"
        [ ! -s out ] && [ ! -s err ]
        fwd -m "$base" --adapter "$base/adapter" <ids.vp >want.vp
        fwd -m "$model" <ids.vp >got.vp
        peek --diff --columns hidden want.vp got.vp --tol 1e-5
        fwd -m "$base" <ids.vp >plain.vp
        run ! peek --diff --columns hidden plain.vp got.vp --tol 1e-3
    done
    run ! leftovers
}

@test "without adapters the weights are the base's, in shards as well" {
    merge -m "$GOLDEN/llama" --out whole
    merge -m "$GOLDEN/llama" --out shards --max-shard-size 20K
    [ -e whole/model.safetensors ] && [ ! -e whole/model.safetensors.index.json ]
    [ -e shards/model.safetensors.index.json ] && [ "$(find shards -name 'model-*-of-*.safetensors' | wc -l)" -gt 3 ]
    for folder in "$GOLDEN/llama" whole shards; do
        fwd -m "$folder" <ids.vp | peek --jsonl --columns hidden | grep -v '"_vp"' >"hidden-${folder##*/}"
    done
    cmp hidden-llama hidden-whole
    cmp hidden-llama hidden-shards
}

@test "-v says what rounding lost, and the type is in config.json" {
    expect 0 merge -v -m "$GOLDEN/llama" --out half --dtype bf16
    grep -q '^merge: [0-9]* tensors, [0-9]* bytes in 1 file; rounding: largest relative difference [1-3].[0-9]*e-03, mean 1' err
    grep -q '"dtype": "bfloat16"' half/config.json
    expect 0 merge -v -m "$GOLDEN/llama" --out single
    grep -q 'difference 0.00e+00, mean 0.00e+00' err
    fwd -m half <ids.vp >half.vp
    fwd -m single <ids.vp >single.vp
    peek --diff --columns hidden single.vp half.vp --tol 0.1
}

@test "the base's small files come along, weights and secrets do not" {
    cp -r "$GOLDEN/llama" base
    cp "$REPO/tests/tokenizers/llama3.json" base/tokenizer.json
    printf '{}' >base/generation_config.json
    printf '{}' >base/.hidden.json
    printf 'x' >base/pytorch_model.bin
    printf '{"pooling_mode":"mean"}' >base/llm2vec_config.json
    printf '{"pooling_mode":"eos_token"}' >base/adapter/llm2vec_config.json
    merge -m base --adapter base/adapter --out merged
    cmp base/tokenizer.json merged/tokenizer.json
    cmp base/adapter/llm2vec_config.json merged/llm2vec_config.json
    [ ! -e merged/pytorch_model.bin ] && [ ! -e merged/.hidden.json ] && [ -e merged/generation_config.json ]
    [ "$(find merged -type f | wc -l)" -eq 9 ] # four of sentence-transformers
    [ "$(stat -c %a merged)" = "$(mkdir x && stat -c %a x)" ]
}

@test "attention to both sides is in the files of everyone who loads the folder" {
    cp -r "$GOLDEN/llama" base
    printf '{"pooling_mode":"eos_token","max_length":100}' >base/adapter/llm2vec_config.json
    merge -m base --adapter base/adapter --out merged
    grep -q '"is_causal": false' merged/config.json
    grep -q '"sentence_transformers.models.Transformer"' merged/modules.json
    grep -q '"pooling_mode": "lasttoken"' merged/1_Pooling/config.json
    grep -q '"max_seq_length": 100' merged/sentence_bert_config.json
    fwd -m merged <ids.vp | peek | grep -q '"attention":"bi"'
    rm base/adapter/llm2vec_config.json
    merge -m base --adapter base/adapter --out causal
    run ! grep -q is_causal causal/config.json
    [ ! -e causal/llm2vec_config.json ]
    grep -q '"pooling_mode": "weightedmean"' causal/1_Pooling/config.json
    fwd -m causal <ids.vp | peek | grep -q '"attention":"causal"'
}

@test "a sentence-transformers folder stays one" {
    need_models
    printf 'one text\nanother\n' | tok -m "$MINILM" --lines | fwd | pool >want.vp
    merge -m "$MINILM" --out copy
    printf 'one text\nanother\n' | tok -m copy --lines | fwd | pool >got.vp
    peek --diff --columns emb want.vp got.vp
    [ -e copy/1_Pooling/config.json ]
}

@test "a GGUF file becomes a folder with the same vectors" {
    need_models
    merge -m "$SMOLLM2" --out folder
    [ -e folder/tokenizer.json ] && [ -e folder/config.json ]
    text=$'The café opened in 1987 -- "naïve", isn\'t it?\n<|im_start|>user\ttabs  and   blanks 12345\n日本語 😀\n'
    for model in "$SMOLLM2" folder; do
        printf '%s' "$text" | tok -m "$model" --lines >"ids-${model##*/}"
        fwd -m "$model" <"ids-${model##*/}" | pool >"emb-${model##*/}"
    done
    peek --diff --columns ids,cu ids-SmolLM2-135M-Instruct.gguf ids-folder
    peek --diff --columns emb emb-SmolLM2-135M-Instruct.gguf emb-folder --tol 1e-6
}

@test "an existing folder" {
    mkdir empty full model
    merge -m "$GOLDEN/llama" --out empty/
    [ -e empty/config.json ]
    touch full/mine
    refused 4 merge -m "$GOLDEN/llama" --out full
    refused 4 merge -m "$GOLDEN/llama" --out full --force
    [ "$(ls full)" = mine ]
    touch file
    refused 4 merge -m "$GOLDEN/llama" --out file
    merge -m "$GOLDEN/qwen2" --out model
    refused 4 merge -m "$GOLDEN/llama" --out model
    mkdir model/sub
    merge -m "$GOLDEN/llama" --out model --force
    grep -q '"llama"' model/config.json
    [ ! -e model/sub ]
    refused 2 merge -m model --out model --force
    cp -r "$GOLDEN/llama/adapter" model
    refused 2 merge -m "$GOLDEN/llama" --adapter model/adapter --out model --force
    run ! leftovers
}

@test "nothing is left after a failure; what a killed program left is swept up" {
    refused 3 merge -m "$GOLDEN/llama" --adapter "$GOLDEN/qwen2/adapter" --out no
    refused 4 merge -m "$GOLDEN/llama" --adapter nothing --out no
    refused 4 merge -m "$GOLDEN/llama" --out no/such/parent
    (trap '' XFSZ; ulimit -f 16; refused 4 merge -m "$GOLDEN/llama" --out no)
    [ ! -e no ]
    run ! leftovers
    mkdir -p no.tmp-abc123/1_Pooling
    touch no.tmp-abc123/model.safetensors no.tmp-abc123/1_Pooling/config.json
    merge -m "$GOLDEN/llama" --out no
    run ! leftovers
}

@test "a killed program publishes nothing, and SIGTERM removes what was written" {
    need_models
    merge -m "$SMOLLM2" --out stopped &
    until ls stopped.tmp-*/model.safetensors >/dev/null 2>&1; do sleep 0.01; done
    kill -TERM $!
    status=0
    wait $! || status=$?
    [ "$status" -eq 143 ]
    [ ! -e stopped ]
    run ! leftovers
    merge -m "$SMOLLM2" --out killed &
    until ls killed.tmp-*/model.safetensors >/dev/null 2>&1; do sleep 0.01; done
    kill -KILL $!
    wait $! || status=$?
    [ "$status" -eq 137 ]
    [ ! -e killed ] && leftovers
}

@test "wrong usage" {
    refused 2 merge -m "$GOLDEN/llama"
    refused 2 merge --out x
    refused 2 merge -m "$GOLDEN/llama" --out x y
    refused 2 merge -m "$GOLDEN/llama" --out x --dtype i8
    refused 2 merge -m "$GOLDEN/llama" --out x --max-shard-size 0
    [ ! -e x ]
}
