# Loaded by every bats file: the built programs first on PATH, a scratch folder as the current one, REPO = the repository.
bats_require_minimum_version 1.5.0
REPO="$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)"
: "${VP_BIN:=$REPO/build/bin}"
PATH="$VP_BIN:$PATH"
export REPO VP_BIN PATH LC_ALL=C.UTF-8
unset VP_MODEL VP_CUDA_LIBRARY
export VP_DEVICE=cpu
if [ -n "${BATS_TEST_TMPDIR:-}" ]; then cd "$BATS_TEST_TMPDIR" || exit 1; fi

# expect STATUS COMMAND...: standard output goes to the file `out`, standard error to `err`; the status must match.
expect() {
    local want=$1 status=0
    shift
    "$@" >out 2>err || status=$?
    if [ "$status" -ne "$want" ]; then
        printf 'status %s, not %s: %s\n' "$status" "$want" "$*"
        head -c 2000 err
        return 1
    fi
}

# refused STATUS PROGRAM ARGS...: fails with that status, nothing on standard output, one line "PROGRAM: ..." on error.
refused() {
    expect "$@" || return 1
    if [ -s out ]; then
        echo "standard output is not empty: $*"
        return 1
    fi
    if [ "$(wc -l <err)" -ne 1 ] || [ "$(head -c $((${#2} + 2)) err)" != "$2: " ]; then
        echo "not one line of '$2: ...': $(head -c 500 err)"
        return 1
    fi
}

# The models that `make models` fetches (MINILM, SMOLLM2), or the test is skipped.
need_models() {
    MINILM=$REPO/models/all-MiniLM-L6-v2
    SMOLLM2=$REPO/models/SmolLM2-135M-Instruct.gguf
    export MINILM SMOLLM2
    [ -e "$MINILM" ] && [ -e "$SMOLLM2" ] || skip "no models: make models"
}

# A pseudo-terminal can be had (script(1) makes one), or the test is skipped.
need_terminal() {
    script -qec true /dev/null >/dev/null 2>&1 || skip "no pseudo-terminals"
}

# killed_and_resumed PIPELINE ARGS...: killed at its first checkpoint, and resumed, the run gives what one left alone gave,
# in `undisturbed`.
killed_and_resumed() {
    local pid
    rm -rf run
    setsid "$REPO/pipelines/$1" "${@:2}" -o run &
    pid=$!
    until [ -e run/checkpoint ]; do sleep 0.01; done
    kill -KILL -- -$pid
    wait $pid || true
    [ ! -e run/adapter_model.safetensors ] || { echo 'it was too fast to be killed'; return 1; }
    expect 0 "$REPO/pipelines/$1" "${@:2}" -o run --resume || return 1
    cmp run/adapter_model.safetensors undisturbed/adapter_model.safetensors
}

# In ./tiny, tests/golden's decoder of 64 channels, the embedding of token $1 is no number: what it is in has no finite logit.
poison() {
    python3 - "$1" <<'PY'
import json, struct, sys
token = json.load(open("tiny/tokenizer.json"))["model"]["vocab"][sys.argv[1]]
with open("tiny/model.safetensors", "r+b") as f:
    size = struct.unpack("<Q", f.read(8))[0]
    begin = json.loads(f.read(size))["model.embed_tokens.weight"]["data_offsets"][0]
    f.seek(8 + size + begin + token * 64 * 4)
    f.write(struct.pack("<f", float("nan")))
PY
}
