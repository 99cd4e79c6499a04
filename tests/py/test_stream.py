#!/usr/bin/env python3
"""An independent reader and writer (examples/stream.py) against the programs, in both directions: what Python writes the
programs read, what they write Python reads; plain, through zstd, and cut into frames in different ways.

environment: VP_BIN, REPO (as tests/run sets them)
"""
import io, json, os, subprocess, sys, tempfile
import msgpack, numpy as np, zstandard

REPO, BIN = os.environ["REPO"], os.environ["VP_BIN"]
sys.path.insert(0, os.path.join(REPO, "examples"))
import stream
from tap import done, ok

random = np.random.default_rng(1)


def run(*command, data=b""):
    command = [os.path.join(BIN, command[0]), *command[1:]]
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)


def written(batches, end={}, **header):
    file = io.BytesIO()
    stream.write(file, batches, end, **header)
    return file.getvalue()


def sample(lengths, first=0):
    """Rows of these lengths as a batch with a column of most types; the same rows give the same values in any batch."""
    T, B = sum(lengths), len(lengths)
    per_row = [np.random.default_rng(first + i) for i in range(B)]
    tokens = [g.integers(0, 1000, n) for g, n in zip(per_row, lengths)]
    return {
        "ids": np.concatenate([np.zeros(0, int), *tokens]),
        "cu": np.cumsum([0, *lengths]),
        "id": [f"row {first + i}" for i in range(B)],
        "text": ["ä\u0085\n" * (i % 3) if i % 4 else None for i in range(first, first + B)],
        "row": np.arange(first, first + B),
        "hash": np.concatenate([np.zeros((0, 16), "u1"), *[g.integers(0, 256, (1, 16), "u1") for g in per_row]]),
        "hidden": np.concatenate([np.zeros((0, 5), "f4"), *[g.normal(size=(n, 5)).astype("f4") for g, n in zip(per_row, lengths)]]),
        "half": np.concatenate([np.zeros((0, 2), "f2"), *[g.normal(size=(1, 2)).astype("f2") for g in per_row]]),
        "double": np.concatenate([np.zeros(0), *[g.normal(size=1) for g in per_row]]),
    }


def test_keys_values():
    """BF16 [L, T, G, d]: what Python writes it reads again, and the programs cut it by tokens."""
    batch = sample([3, 0, 2, 7])
    kv = random.normal(size=(2, 3, 12, 2, 4)).astype("f4")
    for name, x in zip("kv", (kv.view("u4") & 0xffff0000).view("f4")): batch[name] = x
    data = written([batch])
    back = [r["columns"] for r in stream.read(io.BytesIO(data)) if r["kind"] == "batch"][0]
    ok(all(np.array_equal(back[name], batch[name]) for name in "kv"), "keys and values travel as BF16")
    p = run("peek", data=data)
    ok(p.returncode == 0 and b"k          BF16   3x12x2x4" in p.stdout, f"and are read {p.stderr.decode().strip()}")


def test_jsonl():
    """Every type arrives as the number that Python sent."""
    batch = sample([3, 0, 2, 7])
    p = run("peek", "--jsonl", data=written([batch]))
    ok(p.returncode == 0, f"peek reads what Python wrote {p.stderr.decode().strip()}")
    rows = [json.loads(line) for line in p.stdout.split(b"\n")[:-1]]
    cu = batch["cu"]
    for name, x in batch.items():
        if name == "cu": continue
        by_token = name in ("ids", "hidden")
        want = [x[cu[b]:cu[b + 1]] if by_token else x[b] for b in range(4)]
        if isinstance(x, list):
            same = [row[name] for row in rows] == want
        else:
            same = all(np.array_equal(np.array(row[name], x.dtype).reshape(w.shape), w) for row, w in zip(rows, want))
        ok(same, f"--jsonl gives '{name}' exactly")


def test_npy():
    batches = [sample([3, 1]), sample([], 2), sample([4], 2)]
    data = written(batches)
    for name in ("ids", "hidden", "half", "double", "hash", "row"):
        p = run("peek", "--npy", "-", "--column", name, data=data)
        x = np.load(io.BytesIO(p.stdout))
        want = np.concatenate([stream.decode(stream.encode(name, b[name])) for b in batches])
        ok(x.dtype == want.dtype and np.array_equal(x, want), f"--npy gives '{name}' exactly, {x.dtype} {x.shape}")
    x = np.load(io.BytesIO(run("peek", "--npy", "-", "--column", "cu", data=data).stdout))
    ok(np.array_equal(x, [0, 3, 4, 8]), "--npy continues 'cu' over frames")
    bits = random.integers(0, 0x7f80, (3, 2)).astype("<u2")
    tensor = {"dtype": "BF16", "shape": [3, 2], "data": bits.tobytes()}
    data = b"".join([stream.pack({"vecpipe": 1, "kind": "header", "columns": {"emb": ["BF16", ["B", 2]]}}),
                     stream.pack({"kind": "batch", "seq": 0, "columns": {"emb": tensor}}),
                     stream.pack({"kind": "end"})])
    x = np.load(io.BytesIO(run("peek", "--npy", "-", "--column", "emb", data=data).stdout))
    ok(x.dtype == np.float32 and np.array_equal(x, stream.decode(tensor)), "BF16 is widened to F32")
    p = run("peek", "--npy", "-", "--column", "emb", data=written([], columns={"emb": ["F32", ["B", 7]]}))
    ok(np.load(io.BytesIO(p.stdout)).shape == (0, 7), "a stream without batches has the declared shape")


def test_diff():
    """Two cuts of the same rows are equal; a changed number is found where it is."""
    lengths = [int(n) for n in random.integers(0, 6, 20)]
    with tempfile.TemporaryDirectory() as folder:
        a, b = os.path.join(folder, "a"), os.path.join(folder, "b")
        open(a, "wb").write(written([sample(lengths)]))
        parts = [sample(lengths[:7]), sample(lengths[7:8], 7), sample(lengths[8:], 8)]
        open(b, "wb").write(written(parts))
        p = run("peek", "--diff", a, b)
        ok(p.returncode == 0, f"--diff does not see how rows are cut into frames {p.stderr.decode().strip()}")
        parts[2]["half"][3, 1] += np.float16(0.5)
        open(b, "wb").write(written(parts))
        p = run("peek", "--diff", a, b)
        ok(p.returncode == 3 and b"column 'half' row 11, element 1" in p.stderr, f"--diff finds the place: {p.stderr.decode().strip()}")
        ok(run("peek", "--diff", a, b, "--tol", "0.6").returncode == 0, "a tolerance above the difference accepts it")
        ok(run("peek", "--diff", a, b, "--tol", "0.4").returncode == 3, "a tolerance below it does not")
        parts[0]["ids"][0] += 1
        open(b, "wb").write(written(parts))
        ok(run("peek", "--diff", a, b, "--tol", "9").returncode == 3, "integers must be equal whatever the tolerance")


def test_pool():
    """A program between: what it writes Python reads, what it does not know passes."""
    batches = [sample([3, 1, 5]), sample([2], 3)]
    for b in batches: b["stranger"] = [{"k": [1, None, True]}] * (len(b["cu"]) - 1)
    data = written(batches, {"rows": 4, "tokens": 11}, note={"kept": 1})
    p = run("pool", "mean", "--no-normalize", data=data)
    ok(p.returncode == 0, f"pool reads what Python wrote {p.stderr.decode().strip()}")
    records = list(stream.read(io.BytesIO(p.stdout)))
    kinds = [r["kind"] for r in records]
    ok(kinds[0] == "header" and kinds[-1] == "end", "Python reads what pool wrote")
    ok(records[0].get("note") == {"kept": 1} and len(records[0]["history"]) == 1, "keys pass, history grows by one")
    columns = [r["columns"] for r in records if r["kind"] == "batch"]
    ok([r["seq"] for r in records if r["kind"] == "batch"] == list(range(len(columns))), "batches are numbered")
    ok(sum((c["stranger"] for c in columns), []) == sum((b["stranger"] for b in batches), []), "an unknown column passes")
    ok(not any("hidden" in c for c in columns), "hidden states are gone")
    emb = np.concatenate([c["emb"] for c in columns])
    want = np.stack([b["hidden"][i:j].mean(0) for b in batches for i, j in zip(b["cu"][:-1], b["cu"][1:])])
    ok(bool(np.abs(emb - want).max() <= 1e-6), "and their means are there")
    q = run("pool", "mean", "--no-normalize", data=zstandard.ZstdCompressor().compress(data))
    ok(q.stdout == p.stdout, "through zstd the same bytes")
    q = run("pool", "mean", "--no-normalize", data=data[:-20])
    ok(q.returncode == 6 and q.stdout and not complete(q.stdout), "a cut stream gives 6 and no end")


def complete(data):
    try:
        list(stream.read(io.BytesIO(data)))
        return True
    except (EOFError, msgpack.OutOfData):
        return False


def test_example():
    """The example as a program."""
    script = os.path.join(REPO, "examples", "stream.py")
    p = subprocess.run([sys.executable, script, "5", "9,11,7"], stdout=subprocess.PIPE, check=True)
    q = run("peek", "--jsonl", data=p.stdout)
    ok(q.stdout == b'{"ids":[5]}\n{"ids":[9,11,7]}\n', "tokens from its arguments")
    emb = np.array([[3, 4], [0, 2]], "f4")
    p = subprocess.run([sys.executable, script], input=written([{"emb": emb, "id": ["a", "b"]}]), stdout=subprocess.PIPE)
    ok(p.stdout == b"a 5.0\nb 2.0\n", "ids and norms from a stream")
    damaged = bytearray(written([{"emb": emb}]))
    damaged[100] ^= 1
    ok(subprocess.run([sys.executable, script], input=bytes(damaged), capture_output=True).returncode != 0, "damage is refused")


def main():
    test_jsonl()
    test_keys_values()
    test_npy()
    test_diff()
    test_example()
    test_pool()
    return done()


sys.exit(main())
