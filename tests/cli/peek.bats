# peek: what it prints, writes and compares.
# also under sanitizers
load common

setup() { sed 's/#.*//' "$REPO/tests/streams/minimal.hex" | tr -d ' \n' | tr a-f A-F | basenc --base16 -d >minimal.vp; }

@test "the table" {
    expect 0 peek minimal.vp
    cat >want <<'END'
header
  vecpipe    1
  model      {}
  encoder    {}
  columns    {}
  history    []
batch 0: B 2, T 4
  column     dtype  shape                 min         max        mean  first
  ids        I32    4                       5          11           8  5 9 11 7
  cu         I32    3                       0           4     1.66667  0 1 4
end
  batches    1
  rows       2
  tokens     4
END
    diff want out
    [ ! -s err ]
}

@test "several streams are shown one after the other" {
    expect 0 peek minimal.vp minimal.vp
    [ "$(grep -c '^minimal.vp:$' out)" -eq 2 ]
    [ "$(grep -c '^end$' out)" -eq 2 ]
}

@test "--jsonl: an object a row, --columns selects, --head ends early" {
    expect 0 peek --jsonl minimal.vp
    printf '{"ids":[5]}\n{"ids":[9,11,7]}\n' | diff - out
    expect 0 peek --jsonl --columns ids minimal.vp
    printf '{"ids":[5]}\n{"ids":[9,11,7]}\n' | diff - out
    expect 0 peek --jsonl --head 1 minimal.vp
    printf '{"ids":[5]}\n' | diff - out
    head -c 191 minimal.vp | expect 0 peek --jsonl --head 2 # the end is not waited for
    refused 3 peek --jsonl --columns ids,nothing minimal.vp
    grep -q "no column 'nothing'" err
    refused 3 peek --jsonl --columns cu minimal.vp
}

@test "--jsonl: a step without rows lacks columns of the others" {
    need_models
    long=$(printf 'word %.0s' {1..30})
    printf '{"prompt":"%s","completion":"yes","label":%s}\n' "$long" true "$long" false a true b false >answers.jsonl
    tok -q -m "$MINILM" --chat grit --max-len 24 --batch 2 answers.jsonl >steps.vp
    [ "$(peek steps.vp | grep -c '^batch')" -eq 2 ]
    expect 0 peek --jsonl --columns score steps.vp
    [ "$(wc -l <out)" -eq 2 ]
}

@test "--columns on a table" {
    expect 0 peek --columns cu minimal.vp
    grep -q '^  cu ' out
    [ "$(grep -c '^  ids ' out)" -eq 0 ]
}

@test "--npy: a NumPy file, published whole or not at all" {
    expect 0 peek --npy ids.npy --column ids minimal.vp
    [ ! -s out ]
    head -c 6 ids.npy | tail -c 5 | grep -q NUMPY
    head -c 192 ids.npy | grep -qa "{'descr': '<i4', 'fortran_order': False, 'shape': (4,), } *$"
    [ "$(tail -c +193 ids.npy | od -An -td4 | tr -s ' ')" = " 5 9 11 7" ]
    peek --npy - --column ids <minimal.vp | cmp - ids.npy
    cat minimal.vp minimal.vp | peek --npy - --column cu >cu.npy
    [ "$(tail -c +193 cu.npy | od -An -td4 | tr -s ' \n' ' ')" = " 0 1 4 5 8 " ]
    peek --npy - --column ids --head 1 minimal.vp >one.npy
    [ "$(tail -c +193 one.npy | od -An -td4 | tr -s ' ')" = " 5" ]
    head -c 200 minimal.vp | refused 6 peek --npy cut.npy --column ids
    refused 3 peek --npy cut.npy --column emb minimal.vp
    [ "$(find . -name 'cut.npy*' | wc -l)" -eq 0 ]
}

@test "--diff: 0 for equal streams, 3 and the place for others" {
    cp minimal.vp same.vp
    expect 0 peek --diff minimal.vp same.vp
    grep -q '^2 rows compared$' out
    cat minimal.vp minimal.vp >longer.vp
    expect 3 peek --diff minimal.vp longer.vp
    [ "$(cat err)" = "peek: 'minimal.vp' and 'longer.vp' differ: 2 rows against 4" ]
    expect 3 peek --diff minimal.vp longer.vp --tol 10
    refused 3 peek --diff --columns emb minimal.vp same.vp
    head -c 100 minimal.vp >cut.vp
    expect 6 peek --diff minimal.vp cut.vp
}

@test "wrong usage is 2 and names the option" {
    refused 2 peek --diff minimal.vp
    refused 2 peek --npy x.npy minimal.vp
    grep -q -e '--column' err
    refused 2 peek --jsonl --diff minimal.vp minimal.vp
    refused 2 peek --diff minimal.vp minimal.vp --tol nan
    refused 2 peek --diff minimal.vp minimal.vp --tol -1
    refused 2 peek --head -1 minimal.vp
    refused 2 peek --head 1x minimal.vp
    grep -q -e '--head' err
}
