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
    expect 0 "$REPO/scripts/gpu-check" build parity batch fp8 train attention search
    for part in build parity batch fp8 train attention search; do
        tail -n 7 out | grep -E "^$part +ok "
    done
    [ ! -s err ]
}

@test "gpu-check: what fails is named with its reason, the rest goes on" {
    VP_CUDA_LIBRARY=$PWD/nothing.so expect 1 "$REPO/scripts/gpu-check" search build
    grep -E '^search +FAILED ' out
    grep -E '^build +FAILED .*nothing.so' out
    [ "$(tail -n 1 out)" = 'not passed: build search' ]
    grep -q 'nothing.so' err
}

# A build whose tests are these, one of which does not end.
fake_tests() {
    mkdir -p build/unit
    printf '#!/bin/sh\necho "ok 1 - one"; echo "ok 2 - two # skip no"; echo 1..2\n' >build/unit/test_ops_good
    printf '#!/bin/sh\necho "ok 1 - one"; echo "not ok 2 - a number is wrong"; echo 1..2; exit 1\n' >build/unit/test_ops_bad
    printf '#!/bin/sh\necho "ok 1 - one"; echo $$ >%s/pid; exec sleep 300\n' "$PWD" >build/unit/test_ops_waits
    chmod +x build/unit/*
}

@test "gpu-check: a part that its limit ends says what it had, keeps its logs, leaves nothing running" {
    fake_tests
    mkdir kept
    BUILD=$PWD/build OUT=$PWD/kept GPU_CHECK_SECONDS=8 expect 1 "$REPO/scripts/gpu-check" ops
    tail -n 2 out | grep -E '^ops +FAILED .*not done after 8 s'
    for says in 'ops_good 1' 'ops_bad FAILED after 1 \(status 1\)'; do tail -n 2 out | grep -E "$says"; done
    grep -x 'not ok 2 - a number is wrong' err
    for file in log.ops log.ops.test_ops_bad log.ops.test_ops_waits log.ops.test_ops_good.passed table; do
        tar -tzf kept/logs.tgz | grep -x "$file"
    done
    [ ! -e "/proc/$(cat pid)" ]
}

@test "gpu-check: a part that is not there" {
    expect 2 "$REPO/scripts/gpu-check" everything
    grep -q "no part 'everything'" err
}
