# Hostile files through the programs: the documented status, one line on standard error, nothing complete on standard
# output, and no hanging. The readers themselves are tested in tests/unit and tests/fuzz.
# also under sanitizers
load common

# le BYTES NUMBER: little-endian
le() {
    local i
    # shellcheck disable=SC2059
    for ((i = 0; i < $1; i++)); do printf "\\x$(printf %02x $(($2 >> (8 * i) & 255)))"; done
}

zeros() { head -c "$1" /dev/zero; }

# safetensors FILE HEADER BYTES: a file of that header and that many zeros
safetensors() {
    { le 8 ${#2} && printf %s "$2" && zeros "$3"; } >"$1"
}

# gguf_string TEXT, as keys, names and values are written
gguf_string() { le 8 ${#1} && printf %s "$1"; }

CONFIG='"model_type":"llama","hidden_size":8,"intermediate_size":8,"num_hidden_layers":1,"num_attention_heads":2,
"vocab_size":16,"max_position_embeddings":64,"tie_word_embeddings":true'

# model FOLDER: a LLaMA of one layer, width 8, all zeros, whose tokenizer knows two letters
model() {
    local name shape end=0 header='' layer=model.layers.0
    while read -r name shape; do
        header+=",\"$name.weight\":{\"dtype\":\"F32\",\"shape\":[$shape],\"data_offsets\":[$end,"
        end=$((end + 4 * ${shape/,/*}))
        header+="$end]}"
    done <<EOF
model.embed_tokens 16,8
model.norm 8
$layer.input_layernorm 8
$layer.post_attention_layernorm 8
$layer.self_attn.q_proj 8,8
$layer.self_attn.k_proj 8,8
$layer.self_attn.v_proj 8,8
$layer.self_attn.o_proj 8,8
$layer.mlp.gate_proj 8,8
$layer.mlp.up_proj 8,8
$layer.mlp.down_proj 8,8
EOF
    mkdir -p "$1"
    echo "{$CONFIG}" >"$1/config.json"
    echo '{"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true},
        "model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[]}}' >"$1/tokenizer.json"
    safetensors "$1/model.safetensors" "{${header:1}}" "$end"
}

# The stream of tests/streams as bytes.
minimal_stream() {
    sed 's/#.*//' "$REPO/tests/streams/minimal.hex" | tr -d ' \n' | tr a-f A-F | basenc --base16 -d
}

# bounded STATUS PROGRAM ARGS...: as `refused`, within 60 seconds
bounded() {
    local program=$2
    expect "$1" timeout 60 "${@:2}" || return 1
    [ ! -s out ] && [ "$(wc -l <err)" -eq 1 ] && grep -q "^$program: " err
}

setup() {
    minimal_stream >ids
    model good
}

@test "the model that the others are damaged from works" {
    expect 0 fwd -m good <ids
    [ ! -s err ]
    mv out states
    expect 0 peek <states
    [ ! -s err ]
}

@test "a model that is not there or no regular file: status 4 or 3, and nobody waits" {
    refused 4 fwd -m absent <ids
    grep -q absent err
    mkdir empty
    refused 4 fwd -m empty <ids
    grep -q config.json err
    mkfifo pipe
    bounded 3 fwd -m pipe <ids
    rm good/config.json
    mkfifo good/config.json
    bounded 4 fwd -m good <ids
    grep -q 'not a regular file' err
}

@test "hostile safetensors: status 3, naming the file" {
    local t='"dtype":"F32","shape":[8],"data_offsets"' huge=9223372036854775807
    while read -r header; do
        safetensors good/model.safetensors "$header" 64
        refused 3 fwd -m good <ids
        grep -q 'model\.safetensors' err
    done <<EOF
{
[]
null
{}
{"a":{}}
{"a":{$t:[0,32]}}
{"a":{$t:[32,64]}}
{"a":{$t:[0,32]},"b":{$t:[16,48]}}
{"a":{$t:[0,32]},"a":{$t:[32,64]}}
{"a":{$t:[0,$huge]}}
{"a":{$t:[-32,0]}}
{"a":{"dtype":"F32","shape":[$huge,$huge],"data_offsets":[0,64]}}
{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}
{"a":{"dtype":"F32","shape":[-4,-4],"data_offsets":[0,64]}}
{"a":{"dtype":"X","shape":[16],"data_offsets":[0,64]}}
{"__metadata__":7,"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]}}
EOF
    for length in 0 1 $huge -1 100000000; do
        { le 8 "$length" && printf '{}'; } >good/model.safetensors
        refused 3 fwd -m good <ids
    done
    : >good/model.safetensors
    refused 3 fwd -m good <ids
}

@test "safetensors cut off anywhere: status 3" {
    local size
    size=$(stat -c %s good/model.safetensors)
    cp good/model.safetensors whole
    for at in 4 8 20 $((size / 2)) $((size - 4)) $((size - 1)); do
        head -c "$at" whole >good/model.safetensors
        refused 3 fwd -m good <ids
    done
    { cat whole && printf x; } >good/model.safetensors
    refused 3 fwd -m good <ids
}

@test "an index of shards does not lead outside its folder" {
    mv good/model.safetensors outside.safetensors
    for shard in ../outside.safetensors "$PWD/outside.safetensors" .. . ''; do
        echo "{\"weight_map\":{\"model.norm.weight\":\"$shard\"}}" >good/model.safetensors.index.json
        refused 3 fwd -m good <ids
        grep -q 'index\.json' err
    done
    echo '{"weight_map":{"model.norm.weight":"absent"}}' >good/model.safetensors.index.json
    refused 4 fwd -m good <ids
    grep -q absent err
}

@test "hostile GGUF: status 3, naming the file" {
    printf GGUF >cut.gguf
    printf 'GGML\3\0\0\0' >magic.gguf
    { printf GGUF && le 4 1 && le 16 0; } >version.gguf
    { printf GGUF && le 4 3 && le 8 0 && le 8 -1; } >keys.gguf
    { printf GGUF && le 4 3 && le 8 -1 && le 8 0; } >tensors.gguf
    { printf GGUF && le 4 3 && le 8 0 && le 8 1 && le 8 -1; } >string.gguf
    { printf GGUF && le 4 3 && le 8 0 && le 8 1 && gguf_string k && le 4 9 && le 4 9 && le 8 1; } >nested.gguf
    { printf GGUF && le 4 3 && le 8 0 && le 8 1 && gguf_string k && le 4 9 && le 4 4 && le 8 -1; } >array.gguf
    { printf GGUF && le 4 3 && le 8 1 && le 8 0 && gguf_string t && le 4 99; } >dims.gguf
    { printf GGUF && le 4 3 && le 8 1 && le 8 0 && gguf_string t && le 4 1 && le 8 1 && le 4 0 && le 8 -32; } >offset.gguf
    { printf GGUF && le 4 3 && le 16 0; } >empty.gguf
    for file in *.gguf; do
        refused 3 fwd -m "$file" <ids
        grep -q "$file" err
        refused 3 tok --lines -m "$file" <ids
        grep -q "$file" err
    done
}

@test "hostile config.json: status 3, naming it" {
    local deep
    printf -v deep '%*s' 5000 ''
    while read -r config; do
        echo "$config" >good/config.json
        refused 3 fwd -m good <ids
    done <<EOF
{
[]
{}
{$(tr -d '\n' <<<"$CONFIG"),"vocab_size":16}
$(tr -d '\n' <<<"{$CONFIG}" | sed 's/"hidden_size":8/"hidden_size":-8/')
$(tr -d '\n' <<<"{$CONFIG}" | sed 's/"hidden_size":8/"hidden_size":4611686018427387904/')
$(tr -d '\n' <<<"{$CONFIG}" | sed 's/"hidden_size":8/"hidden_size":99999999999999999999/')
$(tr -d '\n' <<<"{$CONFIG}" | sed 's/"hidden_size":8/"hidden_size":"8"/')
$(tr -d '\n' <<<"{$CONFIG}" | sed 's/"num_attention_heads":2/"num_attention_heads":0/')
$(tr -d '\n' <<<"{$CONFIG}" | sed 's/"num_hidden_layers":1/"num_hidden_layers":1000000000/')
$(tr -d '\n' <<<"{$CONFIG}" | sed 's/llama/..\\u0000/')
${deep// /[}
EOF
    { echo '{"a":"' && zeros 20000000 | tr '\0' x && echo '"}'; } >good/config.json
    refused 3 fwd -m good <ids
}

@test "hostile tokenizer.json: status 3" {
    local deep
    printf -v deep '%*s' 5000 ''
    while read -r tokenizer; do
        echo "$tokenizer" >good/tokenizer.json
        echo hello >text
        refused 3 tok --lines -m good <text
    done <<EOF
{
[]
{}
{"model":{}}
{"model":{"type":"BPE"}}
{"model":{"type":"Unknown","vocab":{"a":0}}}
{"model":{"type":"BPE","vocab":{"a":0},"merges":["a"]}}
{"model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}}
{"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}}
{"model":{"type":"BPE","vocab":{"a":9223372036854775807},"merges":[]}}
{"model":{"type":"BPE","vocab":{"a":0,"b":0},"merges":[]}}
{"model":{"type":"WordPiece","unk_token":"[UNK]","vocab":{"a":0}}}
{"pre_tokenizer":{"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}
${deep// /[}
EOF
}

@test "a regular expression that explodes is stopped: status 3" {
    echo '{"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(a+)+$"},"behavior":
        "Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]},
        "model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[]}}' >good/tokenizer.json
    { zeros 1000 | tr '\0' a && echo b; } >text
    expect 3 timeout 60 tok --lines -m good <text
    [ "$(wc -l <err)" -eq 1 ]
}

@test "hostile adapters: status 3" {
    mkdir adapter
    echo '{"peft_type":"LORA","r":2,"lora_alpha":4}' >adapter/adapter_config.json
    safetensors adapter/adapter_model.safetensors \
        '{"base_model.model.nowhere.lora_A.weight":{"dtype":"F32","shape":[2,8],"data_offsets":[0,64]}}' 64
    refused 3 fwd -m good --adapter adapter <ids
    grep -q nowhere err
    echo '{"peft_type":"LORA","r":2,' >adapter/adapter_config.json
    refused 3 fwd -m good --adapter adapter <ids
    grep -q adapter_config.json err
    rm adapter/adapter_config.json
    refused 4 fwd -m good --adapter adapter <ids
}

@test "control characters of a file do not reach the terminal" {
    safetensors good/model.safetensors \
        '{"a\u001b[31m\nb":{"dtype":"F32","shape":[9],"data_offsets":[0,64]}}' 64
    refused 3 fwd -m good <ids
    [ -z "$(tr -d '[:print:]\n' <err)" ]
    [ "$(wc -l <err)" -eq 1 ]
}

@test "a damaged stream: status 3; a cut one: status 6" {
    fwd -m good <ids >states
    for command in peek 'fwd -m good' 'pool mean'; do
        input=ids
        [ "$command" != 'pool mean' ] || input=states
        head -c -1 $input >part
        # shellcheck disable=SC2086
        expect 6 $command <part
        [ "$(wc -l <err)" -eq 1 ]
        { head -c -40 $input && printf '\377' && tail -c 39 $input; } >flipped
        # shellcheck disable=SC2086
        expect 3 $command <flipped
        [ "$(wc -l <err)" -eq 1 ]
        grep -q 'frame 2 (byte [0-9]*): wrong checksum' err
    done
}

@test "a full disk: status 4 and one line" {
    yes abab | head -1000 >text
    for command in 'fwd -m good' peek 'peek --jsonl' 'fwd -m good --pool mean' 'tok --lines -m good'; do
        status=0 input=ids
        [ "$command" != 'tok --lines -m good' ] || input=text
        # shellcheck disable=SC2086
        $command <$input >/dev/full 2>err || status=$?
        [ "$status" -eq 4 ]
        [ "$(wc -l <err)" -eq 1 ]
        grep -q 'No space left on device' err
    done
    fwd -m good <ids >states
    status=0
    peek --npy - --column hidden <states >/dev/full 2>err || status=$?
    [ "$status" -eq 4 ]
    refused 4 peek --npy /dev/full --column hidden <states
    [ -c /dev/full ]
}

@test "a closed pipe: dies of SIGPIPE and says nothing" {
    yes abab | head -1000 >text
    for command in 'fwd -m good' peek 'peek --jsonl' 'tok --lines -m good'; do
        input=ids
        [ "$command" != 'tok --lines -m good' ] || input=text
        # nobody reads any more when the program writes; bash reports a signal as 128 + its number
        # shellcheck disable=SC2086
        { sleep 0.2 && { $command <$input || echo $? >status; }; } 2>err | true
        [ ! -s err ]
        [ "$(cat status)" -eq 141 ]
    done
}
