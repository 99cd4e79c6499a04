#!/usr/bin/env bats
# What ptxas said of the CUDA backend's kernels, compiled for sm_90 (make cubins).
load common

setup() {
    said=$REPO/build/obj/kernels/cuda
    ls "$said"/*.ptxas >/dev/null 2>&1 || skip "no nvcc, or not built: make cubins"
}

@test "every file of kernels compiles for sm_90" {
    for file in "$REPO"/kernels/cuda/*.cu; do
        [ -s "$said/$(basename "$file" .cu).cubin" ] || { echo "$file"; false; }
    done
}

@test "no kernel spills registers" {
    [ "$(grep -h 'bytes spill stores' "$said"/*.ptxas | wc -l)" -gt 100 ]
    run grep -E '[1-9][0-9]* bytes spill (stores|loads)' "$said"/*.ptxas
    echo "$output"
    [ "$status" -eq 1 ]
}
