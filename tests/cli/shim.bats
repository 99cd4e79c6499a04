#!/usr/bin/env bats
# The GPU on the host (kernels/cuda/shim) must stop what a GPU leaves undefined, and say what it was: kernels that are
# at fault by one line (tests/shim/check.cc). Arithmetic of kernels that can be tried out in full is tested there too.
load common

setup() {
    check=$VP_BIN/../shim/check
    [ -x "$check" ] || skip "no GPU on the host: make shim"
    ulimit -c 0
}

# stops NAME PATTERN: the kernel is stopped, on standard error is one line with the kernel's name that matches.
stops() {
    local status=0
    "$check" "$1" >out 2>err || status=$?
    if [ "$status" -ne 134 ] || [ -s out ] || [ "$(wc -l <err)" -ne 1 ] ||
        ! grep -Eq "^$1: block \([01], 0, 0\), thread [0-9]+: .*$2" err; then
        echo "$1: status $status, not stopped with '$2': $(cat err)"
        return 1
    fi
}

@test "shim: a right kernel passes" {
    expect 0 "$check" right
    [ ! -s err ]
}

@test "shim: races and reads of what is not written" {
    stops race "wrote it, no barrier since|is read before it is written"
    stops poison "at 12 is read before it is written"
    stops overwrite "read it, no barrier since|wrote it, no barrier since"
    stops lanes "wrote it, no barrier since|is read before it is written"
    stops warp "wrote it, no barrier since|is read before it is written"
    stops readers "warp 1 read it, no barrier since|wrote it, no barrier since"
}

@test "shim: bounds and alignment" {
    stops bounds "4 bytes, of 2048"
    stops align "not at a multiple of 16"
}

@test "shim: barriers and exchanges that not all reach" {
    stops skipped "'barrier' for threads that do not come"
    stops diverged "'shuffle' for threads that do not come"
    stops mixed "meets lane 0 in '(ballot|shuffle)', itself in '(ballot|shuffle)'"
}

@test "shim: asynchronous copies that are not waited for" {
    stops copy "is read before it is written"
    stops left "returned before an asynchronous copy was waited for"
}

@test "shim: products of warp groups that are not fenced, published or waited for, or whose matrices change" {
    expect 0 "$check" group
    stops unfenced "a product without a fence before it"
    stops unpublished "a product of what was not published before the barrier"
    stops unwaited "returned before a product was waited for"
    stops changed "what a product reads was changed before the product was waited for"
    stops overwritten "what a product reads was changed before the product was waited for"
}

@test "shim: memory of the device is closed to the host" {
    expect 139 "$check" host
}

@test "shim: tiles, slabs, products of warp groups, masks, blocks, powers of two, tanh of attention; E4M3" {
    expect 0 "$check"
    ! grep -v '^ok\|^1\.\.' out
}
