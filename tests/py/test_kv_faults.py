#!/usr/bin/env python3
"""Keys and values on disk under bad weather: `knn add` killed (SIGKILL) between and inside commits and compactions, a
full disk. Afterwards a clean run must leave what the texts say, as a reader of its own finds it: SQLite's table kv_span
and the bytes of kv-*.bin. Hostile streams are refused and change nothing.

usage: test_kv_faults.py [SEED]      environment: VP_BIN, REPO (as tests/run sets them)
"""
import os, random, resource, sqlite3, subprocess, sys, tempfile, time
import msgpack, numpy as np, xxhash, zstandard
import synthetic
from tap import done, ok

BIN = os.environ["VP_BIN"]
SEED = int(sys.argv[1]) if len(sys.argv) > 1 else 1
KILLS, SHAPE = 24, (3, 2, 16)


def knn(*args):
    return [os.path.join(BIN, "knn"), *args]


def corpora(rng):
    """A corpus, and one with half of the texts changed, of other lengths."""
    words = [f"word{i}" for i in range(200)]
    text = lambda: " ".join(rng.choices(words, k=rng.randrange(0, 24)))
    old = [{"id": f"d{i}", "text": text()} for i in range(300)]
    return old, [r if i % 2 else {**r, "text": text()} for i, r in enumerate(old)]


def frames(records, **options):
    return list(synthetic.stream(records, kv=SHAPE, **options))


def plain(data, tokens, kind):
    """A record's numbers: bf16 bits [2, L, n, G, d], or of i8 the floats."""
    layers, groups, width = SHAPE
    count = 2 * layers * tokens * groups * width
    if "zstd" in kind and data:
        data = zstandard.ZstdDecompressor().decompress(data)
        if "i8" not in kind: data = np.frombuffer(data, np.uint8).reshape(2, -1).T.tobytes() # low bytes, then high ones
    if "i8" not in kind: return np.frombuffer(data, np.uint16).reshape(2, layers, tokens, groups, width)
    scale = np.frombuffer(data[count:], np.float32).reshape(2, layers, tokens, groups, 1)
    return np.frombuffer(data[:count], np.int8).reshape(2, layers, tokens, groups, width) * scale


def read_index(index):
    """id -> keys and values, by the description in kv_store.h and schema.h."""
    db = sqlite3.connect(os.path.join(index, "index.db"))
    kind = db.execute("SELECT value FROM setting WHERE key = 'kv'").fetchone()[0]
    out = {}
    for id, file, at, size, tokens, hash in db.execute(
            "SELECT e.id, s.file, s.at, s.bytes, s.tokens, s.hash FROM entry e JOIN kv_span s ON s.n = e.n"):
        data = b""
        if size:
            with open(os.path.join(index, f"kv-{file:08d}.bin"), "rb") as f:
                f.seek(at)
                data = f.read(size)
        assert at % 64 == 0 and xxhash.xxh3_64_intdigest(data) == hash % 2**64, id
        out[id] = plain(data, tokens, kind)
    files = {f"kv-{i:08d}.bin" for i, in db.execute("SELECT id FROM kv_file")}
    db.close()
    return out, files == {f for f in os.listdir(index) if f.startswith("kv-")}


def holds(index, records):
    got, files = read_index(index)
    return files and got.keys() == {r["id"] for r in records} and all(
        np.array_equal(got[r["id"]], synthetic.keys_values(r["text"], SHAPE)) for r in records)


def verified(index):
    return not os.path.exists(index) or subprocess.run(knn("verify", index), capture_output=True).returncode == 0


def add(index, data, *options, **more):
    return subprocess.run(knn("add", "-q", *options, index), input=data, capture_output=True, **more)


def test_kills(rng, folder, *options):
    index = os.path.join(folder, "-".join(["kills", *options]) + ".idx")
    streams = [frames(c) for c in corpora(rng)]
    killed = sound = 0
    for i in range(KILLS):
        stream = streams[i % 2]
        p = subprocess.Popen(knn("add", "-q", *options, index), stdin=subprocess.PIPE)
        for frame in stream[:rng.randrange(2, len(stream) - 1)]: # without its end: it is alive when it is killed
            p.stdin.write(frame)
            p.stdin.flush()
        time.sleep(rng.random() * 0.02)
        p.kill()
        killed += p.wait() == -9
        p.stdin.close()
        sound += verified(index)
    ok(killed == KILLS and sound == KILLS, f"{options}: it verifies after each of {killed} kills: {sound}")
    old, new = corpora(random.Random(SEED + 1))
    for records in (old, new):
        p = add(index, b"".join(frames(records)), *options)
        good = p.returncode == 0 and not p.stderr and verified(index)
        if "i8" not in options: good = good and holds(index, records)
        ok(good, f"{options}: a clean run leaves each text's own keys and values {p.stderr.decode()}")
    ids = [r["id"] for r in new]
    subprocess.run(knn("delete", index, *ids[:200]), check=True)
    got, files = read_index(index)
    ok(files and list(got) == ids[200:] and verified(index), f"{options}: deleted ones are gone, no file is left over")


def test_readers(rng, folder):
    """Who reads while others replace, delete and compact sees one state, whole."""
    index, streams = os.path.join(folder, "read.idx"), [b"".join(frames(c)) for c in corpora(rng)]
    add(index, streams[0])
    bad = 0
    for i in range(8):
        writer = subprocess.Popen(knn("add", "-q", index), stdin=subprocess.PIPE)
        readers = [subprocess.Popen(knn("verify", index)) for _ in range(2)]
        writer.communicate(streams[i % 2])
        bad += writer.returncode != 0 or any([r.wait(60) for r in readers])
    ok(bad == 0, "verify beside a writer finds nothing wrong")


def test_i8(rng, folder):
    """The scale of a token, layer and head is its largest magnitude / 127."""
    index, (records, _) = os.path.join(folder, "i8.idx"), corpora(rng)
    add(index, b"".join(frames(records)), "--kv", "i8")
    got, _ = read_index(index)
    worst = 0
    for r in records:
        bits = synthetic.keys_values(r["text"], SHAPE)
        want = (bits.astype(np.uint32) << 16).view(np.float32)
        off = np.abs(got[r["id"]] - want) / np.abs(want).max(-1, keepdims=True, initial=1e-9)
        worst = max(worst, off.max(initial=0))
    ok(worst <= 1 / 253, f"i8 is within half a step of 127 steps: {worst:.5f}")


def test_file_limit(rng, folder):
    """A full disk, as a limit on file sizes, and in earnest where a small disk can be mounted."""
    index, (records, _) = os.path.join(folder, "limit.idx"), corpora(rng)
    data, failures = b"".join(frames(records)), 0
    for kib in (100, 300, 500):
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (kib << 10, kib << 10))
        p = add(index, data, preexec_fn=limit)
        failures += p.returncode != 4 or p.stderr.count(b"\n") != 1 or not verified(index)
    ok(failures == 0, "a write over the limit exits 4 with one line, and the index verifies")
    ok(add(index, data).returncode == 0 and holds(index, records), "a rerun completes it")
    mount = os.path.join(folder, "small")
    os.mkdir(mount)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", mount], capture_output=True).returncode:
        return ok(True, "a full disk # SKIP no right to mount")
    try:
        index = os.path.join(mount, "full.idx")
        p = add(index, data)
        ok(p.returncode == 4 and p.stderr.count(b"\n") == 1 and verified(index), f"a full disk exits 4: {p.stderr.decode().strip()}")
        subprocess.run(["mount", "-o", "remount,size=64m", mount], check=True)
        ok(add(index, data).returncode == 0 and holds(index, records), "with room again a rerun completes it")
    finally:
        subprocess.run(["umount", mount], check=True)


def changed(records, change):
    """A stream whose second batch a function changed."""
    rows = list(synthetic.rows_of(records, 1))
    batches = [synthetic.batch(rows[i:i + 16], i // 16, i, 8, "F32", kv=SHAPE) for i in (0, 16)]
    change(batches[1]["columns"])
    return b"".join(map(synthetic.frame, [synthetic.header(8, "F32"), *batches, synthetic.end(2, 32)]))


def test_hostile(rng, folder):
    records, _ = corpora(rng)
    records = [{**r, "text": r["text"] + " end"} for r in records[:32]]
    def not_finite(c):
        bits = np.frombuffer(c["k"]["data"], np.uint16).copy()
        bits[7] = 0x7fc0
        c["k"]["data"] = bits.tobytes()
    def reshaped(name, *shape):
        def change(c):
            old = c[name]["shape"]
            c[name]["shape"] = [old[i] if s is None else s for i, s in enumerate(shape)]
        return change
    def half(c): c["v"] = {**c["v"], "dtype": "F16"}
    def fewer(c): c["k"] = synthetic.tensor(np.frombuffer(c["k"]["data"], np.uint16).reshape(c["k"]["shape"])[:2].copy())
    def huge(c):
        for x in "kv": c[x] = {"dtype": "BF16", "shape": [2**40, 0, 2**40, 2**40], "data": b""}
        c["cu"] = synthetic.tensor(np.zeros(17, np.int32))
    cases = {"not a number": not_finite, "T and G exchanged": reshaped("k", None, SHAPE[1], 1, None), "F16": half,
             "no v": lambda c: c.pop("v"), "no k and no v": lambda c: (c.pop("k"), c.pop("v")),
             "fewer layers": fewer, "no layers": reshaped("k", 0, None, None, None), "sizes that overflow": huge,
             "no cu": lambda c: c.pop("cu"), "values": lambda c: c.update(k=["a"] * 16)}
    for what, change in cases.items():
        index = os.path.join(folder, "hostile " + what)
        p = add(index, changed(records, change))
        ok(p.returncode == 3 and p.stderr.startswith(b"knn: ") and p.stderr.count(b"\n") == 1 and b"frame 2" in p.stderr,
           f"{what}: refused: {p.stderr.decode().strip()}")
        ok(holds(index, records[:16]) and verified(index), "the frame before it is kept")


def main():
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory() as folder:
        test_kills(rng, folder)
        test_kills(rng, folder, "--kv-zstd")
        test_kills(rng, folder, "--kv", "i8")
        test_readers(rng, folder)
        test_i8(rng, folder)
        test_file_limit(rng, folder)
        test_hostile(rng, folder)
    return done()


sys.exit(main())
