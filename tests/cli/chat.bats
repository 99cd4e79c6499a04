#!/usr/bin/env bats
# also under sanitizers
# tok for LLM2Vec's models: the chat around texts, the limit of the text alone, and that an index keeps to them. What
# comes out, token by token, is in tests/py/test_llm2vec_text.py.
load common

GOLDEN=$REPO/tests/golden

# model NAME BASE [LLM2VEC]: a folder whose config calls its base BASE, with an llm2vec_config.json if one is given.
model() {
    mkdir "$1"
    cp "$GOLDEN/llama/model.safetensors" "$REPO/tests/pipelines/tokenizer.json" "$1"
    sed "1s|{|{\"_name_or_path\": \"$2\",|" "$GOLDEN/llama/config.json" >"$1/config.json"
    [ -z "${3:-}" ] || echo "$3" >"$1/llm2vec_config.json"
}

setup() {
    model chat mistralai/Mistral-7B-Instruct-v0.2 '{"max_length": 60, "doc_max_length": 12}'
    export VP_MODEL=$PWD/chat
}

# The rows of a stream: ids, and keep if there is one.
rows() { peek --jsonl --columns ids,keep "${1:--}"; }
# The texts that went in, prepared with these options, have the same tokens as "$1" without chat and limits.
same_as() {
    local text=$1
    shift
    printf '%s\n' "$text" | tok --lines --chat none --doc-max-len 0 --max-len 99 | peek --jsonl --columns ids - >want
    "$@" | peek --jsonl --columns ids - >got
    [ -s want ]
    diff want got
}
input_of() { peek "$1" | sed -n 's/^  encoder .*"input":\({[^}]*}\).*/\1/p'; }
embed() { fwd "$@" | pool; }

@test "the chat stands around the text, and its suffix is pooled" {
    same_as '[INST] we fly [/INST]' tok --lines <<<'we fly '
    same_as '[INST] Find: we fly [/INST]' tok --lines --instruction ' Find:' <<<'we fly'
    tok --lines <<<'we fly' >s
    kept=$(rows s | sed 's/.*"keep":\[\(.*\)\].*/\1/')
    [[ $kept =~ ^0[0,]*(,1)+$ ]]
    tok --lines --chat none --specials none <<<' we fly [/INST]' | peek --jsonl --columns ids - >text
    [ "$(tr -cd 1 <<<"$kept" | wc -c)" -eq $(($(tr -cd , <text | wc -c) + 1)) ]
    [[ $(input_of s) == *'"chat":"Mistral-7B-Instruct-v0.2","doc_max_len":12,'* ]]
}

@test "by name, for any model, and for none" {
    model other some/Model '{"max_length": 60}'
    same_as 'we fly' tok -m other --lines <<<'we fly'
    tok -m other --lines --chat Qwen/Qwen2-7B-Instruct <<<'we fly' >named
    tok -m other --lines --template $'<|im_start|>user\n{text}<|im_end|>' <<<'we fly' >written
    diff <(rows named) <(rows written)
    model bare mistralai/Mistral-7B-Instruct-v0.2
    same_as 'we fly ' tok -m bare --lines <<<'we fly '
    same_as '[INST] we fly [/INST]' tok -m bare --lines --chat Mistral-7B-Instruct-v0.2 <<<'we fly '
}

@test "with EOS pooling the end follows" {
    echo '{"max_length": 60, "pooling_mode": "eos_token"}' >chat/llm2vec_config.json
    same_as '[INST] we fly [/INST] </s>' tok --lines <<<'we fly '
    same_as 'we fly ' tok --lines --chat none <<<'we fly '
}

@test "texts that are cut at words are counted" {
    printf 'a b\n%s\n' 'a b c d e f g h i j k l m n o p q r s t' >t
    expect 0 tok --lines t
    diff - err <<<'tok: 1 of 2 texts were cut to 12 tokens, or 60 with all around them'
    peek out | grep -q '^  truncated  1$'
    expect 0 tok --lines --doc-max-len 0 t
    [ ! -s err ]
    expect 0 tok --lines --doc-max-len 5 --max-len 5 --chat none t
    diff - err <<<'tok: 1 of 2 texts were cut to 5 tokens'
    expect 3 tok --lines --truncate error t
    grep -q '^tok: t:2: more than the 12 tokens that a text may have$' err
    expect 0 tok --lines --truncate left t
    [ ! -s err ]
    expect 0 tok --lines --chunk 8 t
    [ ! -s err ]
}

@test "words and running text have neither" {
    echo '{"id":"a","words":["a","b","c","d","e","f","g","h","i","j","k","l","m","n"]}' >r
    expect 0 tok --words r
    [ ! -s err ]
    [[ $(input_of out) != *chat* ]]
    tok --lines --pack 8 --batch 1 --steps 2 <<<'a b c d e f g h i j k l m n o p q' >s
    [[ $(input_of s) == '{"instruction":"","max_len":0,"pack":8,'* ]]
}

@test "an index refuses documents prepared otherwise, and knn missing hands on how they were" {
    head -n 3 "$REPO/examples/corpus.jsonl" >three
    tok -q three | embed | knn add idx -q
    head -n 5 "$REPO/examples/corpus.jsonl" | tail -n 2 >two
    for other in '--chat none' '--doc-max-len 0' '--doc-max-len 13' '--chat gemma-2-9b-it'; do
        # shellcheck disable=SC2086
        tok -q $other two | embed >otherwise
        expect 3 knn add idx <otherwise
        grep -q 'prepared otherwise' err
    done
    unset VP_MODEL
    cat three two | knn missing idx -q >missing
    tok -q missing >rest
    [ "$(rows rest | wc -l)" -eq 2 ]
    [[ $(input_of rest) == *'"chat":"Mistral-7B-Instruct-v0.2","doc_max_len":12,'* ]]
    embed <rest | knn add idx -q
    tok -m idx --lines --query <<<'we fly' >asked
    [[ $(input_of asked) == *'"chat":"Mistral-7B-Instruct-v0.2","doc_max_len":12,'* ]]
    embed <asked | knn search idx -k 2 >hits
    [ -s hits ]
}

@test "queries are prepared as the index's documents were, not as its adapter would be" {
    model base mistralai/Mistral-7B-Instruct-v0.2
    cp -r "$GOLDEN/llama/adapter" adapter
    echo '{"max_length": 60, "doc_max_length": 12}' >adapter/llm2vec_config.json
    head -n 3 "$REPO/examples/corpus.jsonl" >three
    tok -q -m base three | embed --adapter adapter | knn add idx -q
    unset VP_MODEL
    tok -q -m idx --lines --query <<<'we fly' >asked
    [[ $(input_of asked) != *chat* && $(input_of asked) != *doc_max_len* ]]
    head -n 5 "$REPO/examples/corpus.jsonl" | knn missing idx -q | tok -q | embed | knn add idx -q
    # a new index with the adapter's own preparation
    sed -i 's|"base_model_name_or_path": null|"base_model_name_or_path": "/models/gemma-2-9b-it"|' adapter/adapter_config.json
    sed -i 's|mistralai/Mistral-7B-Instruct-v0.2|unknown|' base/config.json
    tok -q -m base --chat gemma-2-9b-it three | embed --adapter adapter | knn add other -q
    [[ $(tok -q -m other --lines --query <<<'we fly' | input_of -) == *'"chat":"gemma-2-9b-it"'* ]]
}

@test "wrong usage is 2 and says what there is" {
    echo >t
    refused 2 tok --lines --chat SmolLM2 t
    grep -q "^tok: --chat 'SmolLM2': no chat of that model is known; there are Llama-2-7b-chat-hf, Mistral" err
    refused 2 tok --lines --doc-max-len -2 t
    refused 2 tok --lines --doc-max-len 3 --chunk 4 t
    refused 2 tok --lines --doc-max-len 3 --truncate left t
    refused 2 tok --words --doc-max-len 3 t
    refused 2 tok --lines --doc-max-len 3 --pack 4 --batch 1 t
    refused 2 tok --lines --chat gemma-2-9b-it --pack 4 --batch 1 t
}
