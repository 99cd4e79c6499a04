#!/usr/bin/env python3
"""Times vecpipe against named peers on the same work in one run, and prints one table (BENCHMARKS.md).

usage: bench/run.py [WORK...]      environment: BUILD (build), PEERS (a Python that has the peers: `make peers`), THREADS

A figure of ours is a whole command: starting, loading and packing the model included; a peer is timed without them,
after a warm-up; of decode both are. "share" is the rate of multiplications in products over the machine's f32 peak as bench/peak measures
it, for decode the bytes of weights read over what a plain read of memory takes.
"""
import functools, json, os, re, shlex, subprocess, sys, tempfile, time

from common import BUILD, PEERS, ROOT, SMOLLM2, THREADS, corpus, have_peers, peak

MINILM = os.path.join(ROOT, "models", "all-MiniLM-L6-v2")
GFLOP_A_TOKEN = {"embed-minilm": 0.0212, "embed-smollm2": 0.2124}  # linear layers alone


def best(command, times):
    """The shortest wall time of a pipeline, in seconds."""
    took = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=True)
        took.append(time.perf_counter() - start)
    return min(took)


def memory(command):
    """MiB that a program had in memory at most, pages of files that it mapped among them."""
    _, status, used = os.wait4(subprocess.Popen(shlex.split(command), stdout=subprocess.DEVNULL).pid, 0)
    if status:
        sys.exit(f"run.py: {command}: status {os.waitstatus_to_exitcode(status)}")
    return used.ru_maxrss / 1024


def peer(work, *arguments):
    if not os.path.exists(PEERS):
        return None
    run = subprocess.run([PEERS, os.path.join(ROOT, "bench", "peers.py"), work, *arguments, THREADS], capture_output=True)
    if run.returncode:
        print(f"bench: {work}: the peer failed: {run.stderr.decode().strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return json.loads(run.stdout.splitlines()[-1])


def tokens_of(stream):
    lines = subprocess.run(["peek", stream], capture_output=True, check=True).stdout.decode().splitlines()
    return int([line.split()[1] for line in lines if line.split()[:1] == ["tokens"]][-1])


def tok_minilm(folder):
    path, stream = corpus(folder, 3000), os.path.join(folder, "tok.vp")
    ours = best(f"tok -q -m {MINILM} --no-meta {path} > {stream}", 3)
    size = os.path.getsize(path) / 1e6
    return "MB/s", size / ours, (lambda s: size / s), peer("tok-minilm", path, MINILM), None


def embed(folder, work, model, rows, options, times):
    """In f32; in bf16 where the work's name ends so: the share, of the f32 peak, may be above 1. None: the processor has no
    products of it."""
    options += f" --compute {'bf16' if work.endswith('bf16') else 'f32'}"
    if work.endswith("bf16") and "avx512_bf16" not in open("/proc/cpuinfo", encoding="ascii").read():
        return None
    path, stream = corpus(folder, rows), os.path.join(folder, "ids.vp")
    best(f"tok -q -m {model} --max-len 256 {path} > {stream}", 1)
    tokens = tokens_of(stream)
    ours = best(f"tok -q -m {model} --max-len 256 {path} | fwd --threads {THREADS} {options} > /dev/null", times)
    gflops = tokens * GFLOP_A_TOKEN[work.removesuffix("-bf16")] / ours
    return "tokens/s", tokens / ours, (lambda s: tokens / s), peer(work, path, model), gflops / peak()


@functools.cache
def steps(kind):
    """bench/decode's tokens/s and share of a plain read, by batch."""
    out = subprocess.run([os.path.join(BUILD, "bench", "decode"), SMOLLM2, THREADS, kind], capture_output=True, check=True)
    line = re.compile(r"(\d+) at a time: .* ([\d.]+) tokens/s, .* (\d+) % of a read")
    found = filter(None, map(line.search, out.stdout.decode().splitlines()))
    return {int(m[1]): (float(m[2]), int(m[3]) / 100) for m in found}


def decode(kind, batch):
    ours, share = steps(kind)[batch]
    return "tokens/s", ours, (lambda s: batch / s), peer(f"decode-{kind}-{batch}", "-", SMOLLM2), share


def vectors(folder):
    """The index of 100,000 x 384 f32; None: nothing to make it with."""
    index = os.path.join(folder, "rows.idx")
    if not os.path.exists(index):
        if not os.path.exists(PEERS):
            return None
        subprocess.run([PEERS, os.path.join(ROOT, "bench", "vectors.py"), folder, "100000", "384"], check=True)
        subprocess.run(f"knn add -q {index} {folder}/rows.vp", shell=True, check=True)
    return index


def search(folder, queries):
    """k = 10."""
    index, npy = vectors(folder), os.path.join(folder, "rows.npy")
    if not index:
        return None
    one = best(f"knn search {index} --threads {THREADS} -k 10 {folder}/queries-{queries}.vp > /dev/null", 5)
    return "queries/s", queries / one, (lambda s: queries / s), peer(f"search-{queries}", npy, f"{folder}/queries.npy"), None


def mine(folder, queries, options, search_options, few=None):
    """Mining against the search that it rests on, at the same depth: the ratio is the part that the search takes. With `few`,
    more than a frame of the stream has, also the memory for so many queries and for all."""
    index, stream = vectors(folder), os.path.join(folder, f"mine-{queries}.vp")
    if not index:
        return None
    search = f"knn search {index} --threads {THREADS} -k 100 {search_options} {stream} > /dev/null"
    command = f"mine-negs -q {index} --threads {THREADS} {options}"
    ours = best(f"{command} {stream} > /dev/null", 2)
    alone = {"seconds": best(search, 2), "peer": f"knn search {search_options} -k 100".replace("  ", " ")}
    if few:
        alone["peer"] += f"; {memory(f'{command} {folder}/mine-{few}.vp'):.0f} MiB for {few} queries, {memory(f'{command} {stream}'):.0f} for all"
    return "queries/s", queries / ours, (lambda s: queries / s), alone, None


WORKS = {
    "tok-minilm": lambda d: tok_minilm(d),
    **{w: (lambda d, w=w: embed(d, w, MINILM, 1000, "--pool auto", 2)) for w in ("embed-minilm", "embed-minilm-bf16")},
    **{w: (lambda d, w=w: embed(d, w, SMOLLM2, 60, "--pool weighted_mean", 2)) for w in ("embed-smollm2", "embed-smollm2-bf16")},
    **{f"decode-{t}-{b}": (lambda d, t=t, b=b: decode(t, b)) for t in ("bf16", "i8") for b in (1, 8)},
    "search-1": lambda d: search(d, 1),
    "search-256": lambda d: search(d, 256),
    "mine": lambda d: mine(d, 10000, "", "", few=5000),
    "mine-bm25": lambda d: mine(d, 100, "--candidates bm25 --rule naive", "--bm25"),
}


def main():
    have_peers()
    chosen = sys.argv[1:] or list(WORKS)
    for work in chosen:
        if work not in WORKS:
            sys.exit(f"run.py: no work '{work}': there are {' '.join(WORKS)}")
    print(f"{THREADS} threads, f32 peak {peak():.0f} GFLOP/s")
    print(f"{'work':18} {'vecpipe':>18} {'peer':>10}  {'ratio':>6} {'share':>6}  against")
    with tempfile.TemporaryDirectory() as folder:
        for work in chosen:
            result = WORKS[work](folder)
            if result is None:
                continue
            unit, ours, rate, other, share = result
            theirs = rate(other["seconds"]) if other else None
            print(f"{work:18} {ours:>9.1f} {unit:8} {f'{theirs:.1f}' if theirs else '-':>10}  "
                  f"{f'{ours / theirs:.2f}' if theirs else '-':>6} {f'{share:.0%}' if share else '-':>6}  "
                  f"{other['peer'] if other else '-'}", flush=True)


main()
