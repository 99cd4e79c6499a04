#!/usr/bin/env python3
"""knn from outside: what it takes, gives and refuses, checked against NumPy and against its contract.

usage: test_index.py      environment: VP_BIN, REPO (as tests/run sets them)
"""
import io, json, os, shutil, sqlite3, subprocess, sys, tempfile
import numpy as np
import synthetic
from tap import done, ok

BIN = os.environ["VP_BIN"]


def knn(*args, stdin=b""):
    return subprocess.run([os.path.join(BIN, "knn"), *args], input=stdin, capture_output=True)


def refused(status, p):
    """The documented status, nothing on standard output, one line of error."""
    lines = p.stderr.decode().splitlines()
    return p.returncode == status and p.stdout == b"" and len(lines) == 1 and lines[0].startswith("knn: ")


def stream(records, **options):
    options.setdefault("text", True)
    return b"".join(synthetic.stream(records, **options))


def jsonl(records):
    return "".join(json.dumps(r) + "\n" for r in records).encode()


def lines(p):
    return [json.loads(line) for line in p.stdout.splitlines()]


def record(i, text=None, **more):
    return {"id": f"d{i}", "text": text or f"text {i} of w{i % 5}", **more}


def add(index, records, **options):
    p = knn("add", index, stdin=stream(records, **options))
    if p.returncode:
        print("#", p.stderr.decode().strip())
    return p.returncode


def check_vectors(index):
    records = [record(i) for i in range(300)]
    for dtype, loss in (("F32", 0), ("BF16", 0), ("I8", 0)):
        path = f"{index}-{dtype}"
        ok(add(path, records, dtype=dtype, dims=33) == 0, f"{dtype}: added")
        rows = [synthetic.vector(r["text"], 33, dtype) for r in records]
        want = np.stack(rows)
        if dtype == "BF16":
            want = (want.astype(np.uint32) << 16).view(np.float32)
        want = want.astype(np.float32)
        npy = np.load(io.BytesIO(knn("export", "--npy", path).stdout))
        ok(npy.dtype == np.float32 and np.array_equal(npy, want), f"{dtype}: export --npy gives back every bit")
        exported = lines(knn("export", "--jsonl", path))
        got = np.array([e["emb"] for e in exported], np.float32)
        ok([e["id"] for e in exported] == [r["id"] for r in records] and np.array_equal(got, want),
           f"{dtype}: so does export --jsonl, in the order in which rows came")
        queries = records[:7]
        hits = lines(knn("search", path, "-k", "12", stdin=stream(queries, dtype=dtype, dims=33)))
        scores = want[:7] @ want.T
        good = len(hits) == 7 * 12
        for q in range(7):
            mine = hits[q * 12:q * 12 + 12]
            best = np.sort(scores[q])[::-1][:12]
            good &= [h["rank"] for h in mine] == list(range(1, 13)) and all(h["query"] == f"d{q}" for h in mine)
            good &= bool(np.max(np.abs(np.array([h["score"] for h in mine]) - best)) <= 1e-5 * max(1, best[0]))
            good &= mine[0]["id"] == f"d{q}"
        ok(good, f"{dtype}: search finds what NumPy finds")


def check_search(index):
    same = [record(i, "the same text") for i in range(40)]
    add(index, same + [record(100, "something else"), record(101, "another thing")])
    p = knn("search", index, "-k", "5", stdin=stream([record(0, "the same text")]))
    ok([h["id"] for h in lines(p)] == sorted(r["id"] for r in same)[:5], "equal scores come in the order of id bytes")
    zero = stream([{"id": "q", "text": ""}])
    ids = sorted([r["id"] for r in same] + ["d100", "d101"])
    ok([h["id"] for h in lines(knn("search", index, "-k", "50", stdin=zero))] == ids, "a query of zeros: every id, score 0")
    p = knn("search", index, "-k", "1000", stdin=stream([record(0, "another thing")]))
    ok(len(lines(p)) == 42 and lines(p)[0]["id"] == "d101", "fewer rows than asked for: fewer lines")
    p = knn("search", index, "--bm25", "--text", stdin=stream([record(0, 'something "AND (NEAR* x')]))
    ok([h["id"] for h in lines(p)] == ["d100"] and lines(p)[0]["text"] == "something else",
       "BM25 takes any punctuation for white space")
    ok(lines(knn("search", index, "--bm25", stdin=stream([record(0, "?!")]))) == [], "BM25 without a word: no hits")
    hybrid = lines(knn("search", index, "--hybrid", "-k", "3", stdin=stream([record(0, "another thing")])))
    ok(hybrid[0]["id"] == "d101" and abs(hybrid[0]["score"] - 2 / 61) <= 1e-9, "hybrid: first in both lists is 2/61")
    ok(refused(3, knn("search", index, "--hybrid", stdin=stream([record(0)], text=False))), "hybrid needs texts")
    add(index + "-textless", [record(i) for i in range(3)], text=False)
    p = knn("search", index + "-textless", "--hybrid", stdin=stream([record(0)]))
    ok(refused(3, p) and b"no texts" in p.stderr, "hybrid over an index without texts is refused, not quietly dense")
    p = knn("search", index, "--bm25", stdin=stream([record(0, "things")]))
    ok([h["id"] for h in lines(p)] == ["d101"], "BM25 looks past English endings")
    p = knn("search", index, stdin=stream([record(0)], space="other"))
    ok(refused(3, p) and b"other" in p.stderr and b"synthetic" in p.stderr, "another space is refused, both are named")
    ok(refused(3, knn("search", index, stdin=stream([record(0)], dims=9))), "other dims are refused")
    table = knn("search", index, "--table", "-k", "2", stdin=stream([record(0, "another thing")])).stdout.decode()
    ok(table.splitlines()[0] == "another thing" and table.splitlines()[1].split()[:3] == ["1", "1.0000", "d101"],
       "--table is for reading")
    rows = list(synthetic.rows_of([record(i) for i in range(64)], 1))
    batches = [synthetic.frame(synthetic.batch(rows[first:first + 16], seq, first, 8, "F32"))
               for seq, first in enumerate((32, 0, 48, 16))]
    frames = [synthetic.frame(synthetic.header(8, "F32")), *batches, synthetic.frame(synthetic.end(4, 64))]
    got = [h["query"] for h in lines(knn("search", index, "-k", "1", stdin=b"".join(frames)))]
    ok(got == [f"d{i}" for i in range(64)], "answers come in row order, whatever the order of batches")
    broken = knn("search", index, "-k", "1", stdin=b"".join(frames[:3]))
    ok(broken.returncode == 6 and len(lines(broken)) == 32, "an upstream that died: its answers, and status 6")


def check_chunks(index):
    long = [record(i, " ".join(f"w{i}x{j}" for j in range(9))) for i in range(20)]
    add(index, long, chunks=3)
    stats = json.loads(knn("stats", "--json", index).stdout)
    ok((stats["records"], stats["rows"]) == (20, 60), "chunks are rows of a record")
    query = [{"id": "q", "text": " ".join(f"w7x{j}" for j in range(9))}]
    hits = lines(knn("search", index, "--by", "parent", "-k", "20", stdin=stream(query, chunks=3)))
    first = [h for h in hits if h["query"] == "q#1"]
    ok(first[0]["id"] == "d7#1" and first[0]["parent"] == "d7" and len({h["parent"] for h in first}) == 20,
       "--by parent: each record once, by its best chunk")
    ok(lines(knn("missing", index, stdin=jsonl(long)))[1:] == [{"_vp": {"end": True, "rows": 0}}], "missing looks at records")
    shorter = [dict(r) for r in long]
    shorter[3]["text"] = "now two"
    add(index, shorter[3:4], chunks=3)
    exported = [e["id"] for e in lines(knn("export", index)) if e.get("parent", e["id"]) == "d3"]
    ok(exported == ["d3"], "the chunks that a new version no longer has are gone")
    half = b"".join(list(synthetic.stream([record(50, "a b c d")], text=True, chunks=4, size=2))[:2])
    ok(knn("add", index, stdin=half).returncode == 6, "an upstream that died in a record exits 6")
    asked = lines(knn("missing", index, stdin=jsonl([record(50, "a b c d")])))
    ok([r.get("id") for r in asked[1:-1]] == ["d50"], "a record without all of its chunks is missing")
    ok(knn("delete", index, "d7", "nobody").returncode == 0, "delete takes records")
    ok(not [e for e in lines(knn("export", index)) if e.get("parent") == "d7"], "with all their chunks")
    ok(knn("verify", index).returncode == 0, "and the index verifies")


def check_missing(index):
    corpus = [record(i, title=f"t{i}", n=i) for i in range(30)]
    first = knn("missing", index, stdin=jsonl(corpus))
    ok(first.stdout.splitlines()[1:-1] == jsonl(corpus).splitlines(), "an index that is not there: every line, unchanged")
    head = lines(first)[0]["_vp"]
    ok(head["jsonl"] == 1 and head["generation"] == 0 and "model" not in head, "the first line tells index and generation")
    ok(lines(first)[-1] == {"_vp": {"end": True, "rows": 30}}, "the last one closes it")
    add(index, corpus)
    nothing = knn("missing", index, stdin=jsonl(corpus))
    ok(len(lines(nothing)) == 2 and lines(nothing)[0]["_vp"]["encoder"]["space"] == "synthetic",
       "nothing to do: two lines, with the encoder")
    corpus[3]["text"] += "!"
    corpus[4]["n"] = -1
    some = knn("missing", index, "-v", stdin=jsonl(corpus))
    ok(lines(some)[1:-1] == [corpus[3]] and b"1 changed, 1 with other fields only" in some.stderr,
       "only the text that changed is asked for")
    ok([e["meta"]["n"] for e in lines(knn("export", index)) if e["id"] == "d4"] == [-1], "other fields are updated in place")
    source = {"index": head["index"], "generation": lines(some)[0]["_vp"]["generation"]}
    newer = dict(corpus[3], text="newest")
    add(index, [newer])
    late = knn("add", "-v", index, stdin=stream([corpus[3], record(99)], source=source))
    ok(late.returncode == 0 and b"1 rows added, 0 replaced, 1 dropped" in late.stderr, "what changed since is kept")
    texts = {e["id"]: e["text"] for e in lines(knn("export", index))}
    ok(texts["d3"] == "t3 newest" and "d99" in texts, "and the rest of that batch is added")
    p = knn("missing", index, stdin=jsonl([record(1), record(2), record(1)]))
    ok(p.returncode == 3 and b"lines 1 and 3" in p.stderr, "an id twice: both lines are named")
    ok(b"end" not in p.stdout, "and the output has no end")
    p = knn("missing", index, stdin=b'{"text":"no id"}\n')
    ok(p.returncode == 3 and b":1: " in p.stderr, "a record without id is refused")
    p = knn("missing", "--id-from", "hash", index, stdin=b'{"text":"no id"}\n')
    made = lines(p)[1]
    ok(made["text"] == "no id" and len(made["id"]) == 32, "--id-from hash puts an id in")
    p = knn("missing", "--id-from", "url", index, stdin=b' {"text":"x","url":"http://a/\xc3\xa4"}\n')
    ok(lines(p)[1] == {"id": "http://a/ä", "text": "x", "url": "http://a/ä"}, "so does a field")
    ok(knn("missing", index, stdin=jsonl(corpus[:1]) + b"{bad\n").returncode == 3, "malformed JSON is refused")
    p = knn("missing", "--skip-bad", "--prune", index, stdin=jsonl(corpus[:1]) + b"{bad\n")
    ok(p.returncode == 3 and b"not pruned" in p.stderr, "nothing is pruned after a line that was skipped")
    p = knn("missing", "--prune", index, stdin=jsonl(corpus[:20]))
    ok(p.returncode == 3 and b"--prune-max" in p.stderr, "--prune refuses more than a tenth")
    p = knn("missing", "--prune", "--prune-max", "50", index, stdin=jsonl(corpus[:20]))
    ok(p.returncode == 0 and json.loads(knn("stats", "--json", index).stdout)["rows"] == 20, "unless it is told to")


def check_refusals(folder):
    index = os.path.join(folder, "refuse.idx")
    p = knn("add", index, stdin=stream([record(1), record(2), record(1)]))
    ok(refused(3, p) and b"rows 0 and 2" in p.stderr and b"'d1'" in p.stderr, "an id twice in a stream: both rows named")
    ok(json.loads(knn("stats", "--json", index).stdout)["rows"] == 0, "nothing of that batch was added")
    ok(add(index, [record(i) for i in range(20)]) == 0, "a stream is added")
    ok(refused(3, knn("add", index, stdin=stream([record(1)], space="other"))), "another space is refused")
    ok(refused(3, knn("add", index, stdin=stream([record(1)], space=None))), "none as well")
    ok(refused(3, knn("add", index, stdin=stream([record(1)], dims=4))), "other dims are refused")
    ok(refused(3, knn("add", index, stdin=stream([record(1)], text=False))), "rows without texts beside some with texts as well")
    ok(refused(3, knn("add", index, stdin=stream([record(1)], dtype="BF16"))), "another dtype is refused")
    cut = stream([record(i) for i in range(30, 80)])[:-10]
    ok(knn("add", index, stdin=cut).returncode in (3, 6), "a stream cut short is refused")
    ok(refused(6, knn("add", index, stdin=b"".join(list(synthetic.stream([record(98)], text=True))[:2]))),
       "without its end: 6")
    ok("d98" in [e["id"] for e in lines(knn("export", index))], "and what came is kept")
    ok(refused(6, knn("add", os.path.join(folder, "no.idx"))) and not os.path.exists(os.path.join(folder, "no.idx")),
       "no stream at all: 6, and no index is made")
    for command in ("stats", "verify", "export", "search", "delete"):
        ok(refused(4, knn(command, os.path.join(folder, "absent"))), f"{command}: no such index is 4")
    plain = os.path.join(folder, "plain")
    os.mkdir(plain)
    open(os.path.join(plain, "file"), "w").close()
    ok(refused(3, knn("stats", plain)) and refused(3, knn("missing", plain)), "a folder that is no index is 3")
    ok(refused(3, knn("stats", os.path.join(plain, "file"))), "so is a file")
    for args in (["nothing"], [], ["add"], ["stats", index, "x"], ["search", index, "-k", "0"],
                 ["export", index, "--npy", "--jsonl"], ["search", index, "--hybrid", "--bm25"]):
        ok(refused(2, knn(*args)), f"knn {' '.join(a for a in args if a != index)}: wrong usage")
    shut = os.path.join(folder, "out.npy")
    rows = json.loads(knn("stats", "--json", index).stdout)["rows"]
    ok(knn("export", index, "--npy", "--out", shut).returncode == 0 and np.load(shut).shape == (rows, 8), "--out FILE")


def check_damage(folder):
    index = os.path.join(folder, "sound.idx")
    add(index, [record(i) for i in range(200)])

    def damaged(name, what, change):
        copy = os.path.join(folder, name)
        shutil.copytree(index, copy)
        change(copy)
        p = knn("verify", copy)
        ok(refused(3, p), f"{what}: {p.stderr.decode().strip()[-70:]}")
        for command in (["export", copy], ["search", copy], ["stats", copy], ["add", copy]):
            p = knn(*command, stdin=stream([record(3)]) if command[0] in ("search", "add") else b"")
            if p.returncode not in (0, 3):
                ok(False, f"{what}: {command[0]} gives {p.returncode}: {p.stderr.decode()}")

    def flip(path, at):
        with open(path, "r+b") as f:
            f.seek(at)
            byte = f.read(1)
            f.seek(at)
            f.write(bytes([byte[0] ^ 0x55]))

    def sql(text):
        def change(copy):
            with sqlite3.connect(os.path.join(copy, "index.db")) as db:
                db.executescript(text)
        return change

    segment = "seg-00000001.vec"
    damaged("a", "a flipped bit of a vector", lambda c: flip(os.path.join(c, segment), 777))
    damaged("b", "a segment cut short", lambda c: os.truncate(os.path.join(c, segment), 1000))
    damaged("c", "a segment gone", lambda c: os.unlink(os.path.join(c, segment)))
    damaged("d", "an entry gone", sql("DELETE FROM entry WHERE id = 'd5'"))
    damaged("e", "an entry beyond the segment", sql("UPDATE entry SET slot = 1 << 40 WHERE id = 'd5'"))
    damaged("f", "a bitmap of another size", sql("UPDATE segment SET bitmap = x'00'"))
    damaged("g", "a text that BM25 does not know", sql("UPDATE document SET text = 'changed' WHERE n = 3"))
    damaged("h", "another version", sql("PRAGMA user_version = 9"))
    damaged("i", "settings that are no JSON", sql("UPDATE setting SET value = '{' WHERE key = 'encoder'"))
    damaged("j", "an absurd number of dims", sql("UPDATE setting SET value = 1 << 60 WHERE key = 'dims'"))
    damaged("k", "a table gone", sql("DROP TABLE extent"))
    damaged("l", "an id that is not UTF-8", sql("UPDATE entry SET id = CAST(x'ff00' AS TEXT) WHERE id = 'd5';"
                                                 "DELETE FROM extent"))
    damaged("m", "a database cut short", lambda c: os.truncate(os.path.join(c, "index.db"), 8192))
    damaged("n", "no database at all", lambda c: open(os.path.join(c, "index.db"), "w").close())
    rng, crashes = np.random.default_rng(1), 0
    size = os.path.getsize(os.path.join(index, "index.db"))
    for i in range(60):
        copy = os.path.join(folder, "flip")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(index, copy)
        for at in rng.integers(0, size, 4):
            flip(os.path.join(copy, "index.db"), int(at))
        for command in (["verify", copy], ["export", copy], ["search", copy], ["add", copy]):
            p = knn(*command, stdin=stream([record(3)]) if command[0] in ("search", "add") else b"")
            crashes += p.returncode not in (0, 3)
    ok(crashes == 0, f"240 runs on databases with flipped bits end with 0 or 3 ({crashes} did not)")


def check_swap_and_readers(folder):
    a, b = os.path.join(folder, "a.idx"), os.path.join(folder, "b.idx")
    add(a, [record(1)])
    add(b, [record(2)], space="second")
    held = subprocess.Popen([os.path.join(BIN, "knn"), "add", a], stdin=subprocess.PIPE)
    frames = list(synthetic.stream([record(3), record(4)], text=True, size=1))
    held.stdin.write(frames[0] + frames[1])
    held.stdin.flush()
    while "d3" not in knn("export", a).stdout.decode():
        pass
    ok(knn("swap", a + "/", b).returncode == 0, "two indexes are exchanged")
    held.stdin.write(frames[2] + frames[3])
    held.stdin.close()
    ok(held.wait(20) == 0, "while one is being added to")
    ids = lambda index: [e["id"] for e in lines(knn("export", index))]
    ok(ids(a) == ["d2"] and ids(b) == ["d1", "d3", "d4"], "which goes on in the index that it had opened")
    ok(knn("verify", a).returncode == 0 and knn("verify", b).returncode == 0, "both verify")
    ok(refused(2, knn("swap", a, a)) and refused(4, knn("swap", a, os.path.join(folder, "none"))), "swap refuses nonsense")
    readonly = os.path.join(folder, "ro")
    shutil.copytree(b, readonly)
    mounted = subprocess.run(["mount", "--bind", "-o", "ro", readonly, readonly], capture_output=True).returncode == 0
    if mounted:
        try:
            ok(ids(readonly) == ["d1", "d3", "d4"] and knn("verify", readonly).returncode == 0, "a read-only folder works")
            ok(refused(4, knn("add", readonly, stdin=stream([record(1)]))), "but is not added to")
        finally:
            subprocess.run(["umount", readonly], check=True)
    for name in ("index.db-wal", "index.db-shm", "lock", "run.lock"):
        os.unlink(os.path.join(readonly, name))
    os.chmod(readonly, 0o555)
    prefix = ["setpriv", "--reuid", "65534", "--clear-groups", "--inh-caps=-all"] if os.getuid() == 0 else []
    os.chmod(folder, 0o755)
    p = subprocess.run([*prefix, os.path.join(BIN, "knn"), "export", readonly], capture_output=True)
    ok(p.returncode == 0 and len(lines(p)) == 3, f"so does one without -wal, for a user who cannot write {p.stderr.decode()}")


def check_compaction(index):
    records = [record(i) for i in range(500)]
    add(index, records)
    add(index, [record(i, f"changed {i}") for i in range(200)])
    s = json.loads(knn("stats", "--json", index).stdout)
    ok(s["rows"] == 500 and s["dead"] * 4 <= 700, f"over 25 % dead is compacted ({s['dead']} dead rows)")
    p = knn("delete", index, stdin="".join(f"d{i}\n" for i in range(100, 400)).encode())
    s = json.loads(knn("stats", "--json", index).stdout)
    ok(p.returncode == 0 and s["rows"] == 200 and s["dead"] * 4 <= 200 and s["texts"] == 200, "also after deleting")
    ok(knn("verify", index).returncode == 0, "a compacted index verifies")
    p = knn("search", index, "-k", "1", stdin=stream([record(450), record(7, "changed 7")]))
    ok([h["id"] for h in lines(p)] == ["d450", "d7"], "and finds its rows")
    knn("delete", index, stdin="".join(f"d{i}\n" for i in range(500)).encode())
    s = json.loads(knn("stats", "--json", index).stdout)
    ok(s["rows"] == 0 and s["segments"] == 0 and knn("verify", index).returncode == 0, "an emptied index has no segment")
    ok(knn("search", index, stdin=stream([record(1)])).stdout == b"", "and no hits")


def main():
    with tempfile.TemporaryDirectory() as folder:
        check_vectors(os.path.join(folder, "vectors"))
        check_search(os.path.join(folder, "search.idx"))
        check_chunks(os.path.join(folder, "chunks.idx"))
        check_missing(os.path.join(folder, "missing.idx"))
        check_compaction(os.path.join(folder, "compact.idx"))
        check_refusals(folder)
        check_damage(folder)
        check_swap_and_readers(folder)
    return done()


sys.exit(main())
