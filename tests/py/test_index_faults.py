#!/usr/bin/env python3
"""The index under bad weather: `knn add` and `knn missing` killed (SIGKILL) at random moments, two at once, a full disk.
Afterwards one clean run must give what an undisturbed index holds.

usage: test_index_faults.py [SEED]      environment: VP_BIN, REPO (as tests/run sets them)
"""
import json, os, random, resource, subprocess, sys, tempfile, time
import synthetic
from tap import done, ok

BIN, HERE = os.environ["VP_BIN"], os.path.dirname(os.path.abspath(__file__))
SEED = int(sys.argv[1]) if len(sys.argv) > 1 else 1
ROUNDS = 50


def knn(*args):
    return [os.path.join(BIN, "knn"), *args]


def corpora(rng):
    """A corpus, and a later version of it: texts and other fields changed, records gone and new."""
    words = [f"word{i}" for i in range(200)]
    old = [{"id": f"d{i}", "title": f"title {i}", "text": " ".join(rng.choices(words, k=12)), "n": i} for i in range(1500)]
    new = []
    for r in old:
        fate = rng.random()
        if fate < 0.05:
            continue
        r = dict(r)
        if fate < 0.35:
            r["text"] += " changed"
        elif fate < 0.5:
            r["n"] = -1
        new.append(r)
    new += [{"id": f"e{i}", "text": " ".join(rng.choices(words, k=9))} for i in range(100)]
    return old, new


def write_stream(path, records, **options):
    with open(path, "wb") as f:
        for frame in synthetic.stream(records, text=True, **options):
            f.write(frame)


def write_jsonl(path, records):
    with open(path, "w", encoding="utf-8") as f:
        for r in records:
            f.write(json.dumps(r) + "\n")


def pipeline(index, corpus, *options, chunks=1):
    """knn missing | (what stands for tok, fwd and pool) | knn add, started; the processes."""
    first = subprocess.Popen(knn("missing", "--wait", *options, index, corpus), stdout=subprocess.PIPE)
    middle = subprocess.Popen([sys.executable, os.path.join(HERE, "synthetic.py"), "--text", "--chunks", str(chunks)],
                              stdin=first.stdout, stdout=subprocess.PIPE)
    first.stdout.close()
    last = subprocess.Popen(knn("add", index), stdin=middle.stdout)
    middle.stdout.close()
    return [first, middle, last]


def export(index):
    out = subprocess.run(knn("export", index, "--jsonl"), capture_output=True, check=True).stdout
    return sorted(out.splitlines())


def verified(index):
    return subprocess.run(knn("verify", index), capture_output=True)


def complete(index, corpus, **options):
    return [p.wait(60) for p in pipeline(index, corpus, "--prune", "--prune-max", "100", **options)]


def kill_rounds(rng, folder, streams, corpus, index):
    """Half of the rounds add a stream, half ask what is missing and prune; each killed somewhere in its run time."""
    calm = os.path.join(folder, "timed.idx")
    lengths = {}
    for path in streams:
        began = time.monotonic()
        subprocess.run(knn("add", calm, path), check=True)
        lengths[path] = time.monotonic() - began
    killed = 0
    for i in range(2 * ROUNDS):
        path = rng.choice(streams)
        command = knn("add", index, path) if i % 2 else knn("missing", "--prune", "--prune-max", "100", index, corpus)
        p = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(rng.random() * (lengths[path] if i % 2 else 0.05))
        p.kill()
        killed += p.wait() == -9
        if not verified_or_absent(index):
            return killed, False
        if rng.random() < 0.08:
            subprocess.run(["rm", "-rf", index], check=True)
    return killed, True


def verified_or_absent(index):
    return not os.path.exists(index) or verified(index).returncode == 0


def test_kills(rng, folder, chunks):
    old, new = corpora(rng)
    name = lambda s: os.path.join(folder, f"{chunks}-{s}")
    write_jsonl(name("new.jsonl"), new)
    write_stream(name("old.vp"), old, chunks=chunks)
    write_stream(name("new.vp"), new, chunks=chunks)
    ok(complete(name("calm.idx"), name("new.jsonl"), chunks=chunks) == [0, 0, 0], "an undisturbed run succeeds")
    want = export(name("calm.idx"))
    killed, sound = kill_rounds(rng, folder, [name("old.vp"), name("new.vp")], name("new.jsonl"), name("rough.idx"))
    ok(sound, f"the index verifies after each of {killed} kills")
    ok(killed > ROUNDS, f"{killed} of {2 * ROUNDS} were killed before they were done")
    ok(complete(name("rough.idx"), name("new.jsonl"), chunks=chunks) == [0, 0, 0], "the next clean run succeeds")
    got = export(name("rough.idx"))
    ok(got == want, f"it leaves what an undisturbed index holds ({len(got)} of {len(want)} rows, seed {SEED})")
    ok(verified(name("rough.idx")).returncode == 0, "and verifies")
    # a kill between a compaction's commit and its last unlink leaves a file to the next writer
    subprocess.run(knn("delete", name("rough.idx"), json.loads(got[0])["id"]), check=True)
    stats = json.loads(subprocess.run(knn("stats", "--json", name("rough.idx")), capture_output=True, check=True).stdout)
    files = [f for f in os.listdir(name("rough.idx")) if f.startswith("seg-")]
    ok(len(files) == stats["segments"], f"no file is left over ({files}, {stats['segments']} segments)")
    ok(not [f for f in os.listdir(folder) if "tmp" in f], "nor a folder beside it")


def test_two_at_once(rng, folder):
    old, new = corpora(rng)
    name = lambda s: os.path.join(folder, "two-" + s)
    write_jsonl(name("new.jsonl"), new)
    write_stream(name("old.vp"), old)
    write_stream(name("new.vp"), new)
    for p in pipeline(name("calm.idx"), name("new.jsonl")):
        p.wait()
    want = export(name("calm.idx"))
    adds = [subprocess.Popen(knn("add", name("adds.idx"), name("new.vp"))) for _ in range(2)]
    ok([p.wait(60) for p in adds] == [0, 0], "two adds at once, which also make the index, succeed")
    ok(export(name("adds.idx")) == want and verified(name("adds.idx")).returncode == 0, "and leave one copy of each row")
    subprocess.run(knn("add", name("both.idx"), name("old.vp")), check=True)
    both = [pipeline(name("both.idx"), name("new.jsonl"), "--prune", "--prune-max", "50") for _ in range(2)]
    statuses = [p.wait(60) for three in both for p in three]
    ok(statuses == [0] * 6, f"two pipelines at once succeed: {statuses}")
    ok(export(name("both.idx")) == want and verified(name("both.idx")).returncode == 0, "and leave the new corpus")


def test_run_lock(folder):
    """One `missing` at a time: it holds its lock for as long as its input lasts."""
    index = os.path.join(folder, "lock.idx")
    subprocess.run(knn("missing", index), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    first = subprocess.Popen(knn("missing", index), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    first.stdout.readline()
    refused = subprocess.run(knn("missing", index), stdin=subprocess.DEVNULL, capture_output=True)
    ok(refused.returncode == 7 and refused.stdout == b"" and refused.stderr.count(b"\n") == 1,
       f"a second missing exits 7: {refused.stderr.decode().strip()}")
    waits = subprocess.Popen(knn("missing", "--wait", index), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    time.sleep(0.2)
    ok(waits.poll() is None, "with --wait it waits")
    first.kill()
    first.communicate()
    ok(waits.wait(10) == 0, "until the first one is gone, even killed")


def test_file_limit(rng, folder):
    """A full disk, as a limit on file sizes: the write fails and the program goes on to say so."""
    _, new = corpora(rng)
    stream, index = os.path.join(folder, "limit.vp"), os.path.join(folder, "limit.idx")
    write_stream(stream, new, dims=64)
    failures = 0
    for kib in (40, 120, 200, 300):
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (kib << 10, kib << 10))
        p = subprocess.run(knn("add", index, stream), capture_output=True, preexec_fn=limit)
        lines = p.stderr.decode().splitlines()
        failures += p.returncode != 4 or len(lines) != 1 or not lines[0].startswith("knn: ")
        failures += not verified_or_absent(index)
    ok(failures == 0, "a write over the limit exits 4 with one line, and the index verifies")
    ok(subprocess.run(knn("add", index, stream)).returncode == 0 and len(export(index)) == len(new), "a rerun completes it")


def test_full_disk(rng, folder):
    mount, size = os.path.join(folder, "small"), "size=600k"
    os.mkdir(mount)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", mount], capture_output=True).returncode != 0:
        ok(True, "a full disk # SKIP no right to mount")
        return
    try:
        _, new = corpora(rng)
        stream, index = os.path.join(folder, "full.vp"), os.path.join(mount, "full.idx")
        write_stream(stream, new, dims=64)
        p = subprocess.run(knn("add", index, stream), capture_output=True)
        ok(p.returncode == 4 and p.stderr.count(b"\n") == 1, f"a full disk exits 4: {p.stderr.decode().strip()}")
        ok(verified_or_absent(index), "what was committed before verifies")
        subprocess.run(["mount", "-o", "remount,size=64m", mount], check=True)
        ok(subprocess.run(knn("add", index, stream)).returncode == 0 and len(export(index)) == len(new),
           "with room again a rerun completes it")
        ok(verified(index).returncode == 0, "and it verifies")
    finally:
        subprocess.run(["umount", mount], check=True)


def main():
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory() as folder:
        test_kills(rng, folder, chunks=1)
        test_kills(rng, folder, chunks=3)
        test_two_at_once(rng, folder)
        test_run_lock(folder)
        test_file_limit(rng, folder)
        test_full_disk(rng, folder)
    return done()


sys.exit(main())
