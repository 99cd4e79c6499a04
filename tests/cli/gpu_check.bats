#!/usr/bin/env bats
# scripts/gpu-check, tried without a GPU: small sizes, on the CUDA backend that computes on the host.
load common

setup() {
    shim=$REPO/build/shim/libvecpipe-cuda.so
    [ -e "$shim" ] || skip "no shim: make shim"
    [ -x "$REPO/build/bench/device" ] || skip "no build/bench/device"
    for GPU_CHECK_PYTHON in python3 "$REPO/build/venv/bin/python"; do
        "$GPU_CHECK_PYTHON" -c 'import numpy, msgpack, xxhash' 2>/dev/null && break
    done
    "$GPU_CHECK_PYTHON" -c 'import numpy, msgpack, xxhash' 2>/dev/null || skip "no numpy, msgpack and xxhash for Python"
    export GPU_CHECK_PYTHON GPU_CHECK_DRY=1 VP_CUDA_LIBRARY=$shim
}

@test "gpu-check: parts run, and a table ends it" {
    expect 0 "$REPO/scripts/gpu-check" build parity batch fp8 train search
    for part in build parity batch fp8 train search; do
        tail -n 6 out | grep -E "^$part +ok "
    done
    [ ! -s err ]
}

@test "gpu-check: what fails is named, the rest goes on" {
    VP_CUDA_LIBRARY=$PWD/nothing.so expect 1 "$REPO/scripts/gpu-check" search build
    grep -E '^search +FAILED ' out
    grep -E '^build +ok ' out
    [ "$(tail -n 1 out)" = 'not passed: search' ]
    grep -q 'nothing.so' err
}

@test "gpu-check: a part that is not there" {
    expect 2 "$REPO/scripts/gpu-check" everything
    grep -q "no part 'everything'" err
}
