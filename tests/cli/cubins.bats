#!/usr/bin/env bats
# What ptxas said of the CUDA backend's kernels, compiled for sm_90 and sm_90a; that they compile for sm_80 and as PTX
# (make cubins).
load common

setup() {
    said=$REPO/build/obj/kernels/cuda
    ls "$said"/*.ptxas >/dev/null 2>&1 || skip "no nvcc, or not built: make cubins"
}

@test "every file of kernels compiles for sm_90 or sm_90a, and but for warp groups' for sm_80" {
    for file in "$REPO"/kernels/cuda/*.cu; do
        name=$(basename "$file" .cu)
        [ -s "$said/$name.cubin" ] || { echo "$file"; false; }
        [[ $name == attn_group* ]] || [ -s "$said/$name.sm_80.fatbin" ] || { echo "$file"; false; }
    done
}

@test "products of warp groups are not put one after another" {
    [ "$(grep -l "for 'sm_90a'" "$said"/attn_group*.ptxas | wc -l)" -eq 2 ]
    run grep -iE 'performance loss|is injected' "$said"/*.ptxas
    echo "$output"
    [ "$status" -eq 1 ]
}

@test "no kernel spills registers" {
    [ "$(grep -h 'bytes spill stores' "$said"/*.ptxas | wc -l)" -gt 100 ]
    run grep -E '[1-9][0-9]* bytes spill (stores|loads)' "$said"/*.ptxas
    echo "$output"
    [ "$status" -eq 1 ]
}
