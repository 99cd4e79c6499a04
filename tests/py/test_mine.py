#!/usr/bin/env python3
"""mine-negs against mining in NumPy: the rules as the papers give them, written anew, must give the same lines.

Vectors are small integers, so that every score is exact and many are tied.

usage: test_mine.py      environment: VP_BIN, REPO (as tests/run sets them)
"""
import json, math, os, random, shutil, struct, subprocess, sys, tempfile, unicodedata
import numpy as np
import xxhash
from synthetic import frame, tensor
from tap import done, ok

BIN = os.environ["VP_BIN"]
DIMS, TEXTS, QUERIES = 6, 300, 60
f32 = np.float32


def run(program, *args, stdin=b""):
    return subprocess.run([os.path.join(BIN, program), *args], input=stdin, capture_output=True)


# ---- streams ----
def header(space):
    return frame({"vecpipe": 1, "kind": "header", "model": {}, "encoder": {"space": space, "input": "plain"},
                  "columns": {}, "history": []})


def stream(rows, space="here", size=7, order=None, end=True):
    """rows: (id, vector or None, text or None, meta or None); frames of `size` rows in the order given."""
    places = list(range(len(rows))) if order is None else order
    out = [header(space)]
    for seq, at in enumerate(range(0, len(rows), size)):
        part = places[at:at + size]
        columns = {"id": [rows[i][0] for i in part], "row": tensor(np.array(part, np.int64))}
        if rows[0][1] is not None:
            columns["emb"] = tensor(np.stack([rows[i][1] for i in part]).astype(f32))
        if rows[0][2] is not None:
            columns["text"] = [rows[i][2] for i in part]
        columns["meta"] = [rows[i][3] and json.dumps(rows[i][3], sort_keys=True, separators=(",", ":")) for i in part]
        out.append(frame({"kind": "batch", "seq": seq, "columns": columns}))
    return b"".join(out + ([frame({"kind": "end", "batches": len(out) - 1, "rows": len(rows)})] if end else []))


# ---- mining anew ----
def normal(s):
    return " ".join(unicodedata.normalize("NFKC", s).casefold().split())


def key(s):
    return xxhash.xxh3_64_intdigest(normal(s).encode())


def draw(seed, query, candidate):
    """Philox4x32-10 of (query, candidate) under seed, in (0, 1)."""
    c = [query & 0xffffffff, query >> 32, candidate & 0xffffffff, candidate >> 32]
    k = [seed & 0xffffffff, seed >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xffffffff, (a >> 32) ^ c[3] ^ k[1], a & 0xffffffff]
        k = [(k[0] + 0x9E3779B9) & 0xffffffff, (k[1] + 0xBB67AE85) & 0xffffffff]
    return (c[0] + 0.5) / 2**32


class Corpus:
    def __init__(self, rows):
        self.rows = rows = sorted(rows, key=lambda r: r[0].encode())  # in which order they came does not matter
        self.vectors = np.stack([r[1] for r in rows]).astype(f32)
        self.at = {r[0]: i for i, r in enumerate(rows)}
        self.by_text = {}
        for i, r in enumerate(rows):
            self.by_text.setdefault(normal(r[2]), i)
        self.keys = [key(r[2]) for r in rows]

    def ranking(self, query):
        scores = self.vectors @ query
        return sorted(range(len(self.rows)), key=lambda i: (-scores[i], self.rows[i][0].encode())), scores


def mine(corpus, queries, n=4, depth=100, first=0, rule="percent", limit=0.95, pos="min", shift=0, pick="first",
         take_from=0, seed=0, short="keep", label=None, known=(), rankings=None):
    """Triples as mine-negs prints them. rankings: other ranked lists for the queries, merged by rank."""
    for number, (name, vector, _, meta) in enumerate(queries):
        ranked, scores = corpus.ranking(vector)
        ranked = ranked[:depth]
        if rankings is not None:
            merged = []
            for k in range(depth):
                for some in (ranked, rankings[number]):
                    if k < len(some) and some[k] not in merged:
                        merged.append(some[k])
            ranked = merged
        query, own = meta["query"], key(meta["query"])
        positives = meta["positive"] if isinstance(meta["positive"], list) else [meta["positive"]]
        places = [corpus.by_text[normal(p)] for p in positives]
        own_scores = [scores[i] for i in places]
        goal = {"min": min, "max": max, "mean": lambda x: f32(sum(map(float, x)) / len(x))}[pos](own_scores)
        seen = set()

        def may(i):
            if corpus.keys[i] == own or normal(corpus.rows[i][2]) in map(normal, positives):
                return False
            if (own, corpus.keys[i]) in known or corpus.keys[i] in seen:
                return False
            seen.add(corpus.keys[i])
            copies = (r[3] or {} for r, k in zip(corpus.rows, corpus.keys) if k == corpus.keys[i])
            return not (label and meta.get(label) is not None and meta[label] in [r.get(label) for r in copies])

        left = [i for i in ranked[first:] if may(i)][shift:]
        kind, bound = (rule, f32(limit)) if rule != "percent" or goal > 0 else ("margin", f32(0.05))
        keeps = {"naive": lambda s: True, "abs": lambda s: s < bound, "margin": lambda s: s < f32(goal - bound),
                 "percent": lambda s: s < f32(bound * goal)}[kind]
        left = [i for i in left if keeps(scores[i])]
        left = left[:take_from or None]
        if len(left) > n and pick != "first":
            fixed = 1 if pick == "top1+sample" else 0
            def odds(i):
                weight = 0.0 if pick == "uniform" else float(scores[i])
                return weight - math.log(-math.log(draw(seed, own, corpus.keys[i])))
            chosen = set(left[:fixed]) | set(sorted(left[fixed:], key=odds, reverse=True)[:n - fixed])
            left = [i for i in left if i in chosen]
        left = left[:n]
        seen = {corpus.keys[i] for i in left}
        counter = 0
        while short == "fill" and len(left) < n:
            i = int(draw(seed, own, counter) * len(corpus.rows))
            tries = 0
            while tries < len(corpus.rows) and not may(i):
                i, tries = (i + 1) % len(corpus.rows), tries + 1
            if tries == len(corpus.rows):
                break
            left.append(i)
            counter += 1
        if left and (len(left) == n or short != "drop"):
            yield {**meta, "negative": [corpus.rows[i][2] for i in left], "neg_ids": [corpus.rows[i][0] for i in left],
                   "neg_scores": [float(scores[i]) for i in left], "pos_scores": [float(s) for s in own_scores]}


# ---- data ----
def make(folder):
    rng = random.Random(5)
    words = [f"word{i}" for i in range(40)] + ["Café", "ＡＢＣ", "straße"]
    vector = lambda: np.array([rng.randint(-3, 3) for _ in range(DIMS)], f32)
    texts = [" ".join(rng.choices(words, k=rng.randint(2, 5))) for _ in range(TEXTS)]
    for i in range(0, 40, 2):  # the same but for case, blanks and forms of characters
        texts[i] = texts[i + 1].upper().replace(" ", "  ") if i % 4 else unicodedata.normalize("NFD", texts[i + 1])
    rows = [(f"t{i * 37 % 1000:03}", vector(), t, {"part": f"p{i % 9}", "label": i % 4}) for i, t in enumerate(texts)]
    queries = []
    for i in range(QUERIES):
        answers = [texts[rng.randrange(TEXTS)] for _ in range(1 + i % 3)]
        query = texts[rng.randrange(TEXTS)] if i % 5 == 0 else f"question {i % 50}"
        meta = {"query": query, "positive": answers if i % 3 else answers[0], "part": f"p{i % 9}", "label": i % 4, "n": i}
        queries.append((str(i), vector() * (i != 7), query, meta))
    index = os.path.join(folder, "corpus.idx")
    ok(run("knn", "add", "-q", index, stdin=stream(rows)).returncode == 0, "an index")
    return index, sorted(rows, key=lambda r: r[0].encode()), queries


def lines(p):
    return [json.loads(line) for line in p.stdout.splitlines()]


def check_rules(index, rows, queries):
    corpus = Corpus(rows)
    cases = [
        ([], {}),
        (["--rule", "naive", "-n", "7"], {"rule": "naive", "n": 7}),
        (["--rule", "abs=4"], {"rule": "abs", "limit": 4}),
        (["--rule", "margin=2.5", "--pos", "max"], {"rule": "margin", "limit": 2.5, "pos": "max"}),
        (["--rule", "percent=0.8", "--pos", "mean", "--shift", "3"],
         {"rule": "percent", "limit": 0.8, "pos": "mean", "shift": 3}),
        (["--pick", "sample", "--from", "20", "--seed", "9"], {"pick": "sample", "take_from": 20, "seed": 9}),
        (["--pick", "top1+sample", "--seed", "9"], {"pick": "top1+sample", "seed": 9}),
        (["--rule", "naive", "--range", "10-60", "--pick", "uniform", "-n", "15", "--seed", "3", "--short", "fill"],
         {"rule": "naive", "first": 10, "depth": 60, "pick": "uniform", "n": 15, "seed": 3, "short": "fill"}),
        (["--depth", "25", "--short", "drop"], {"depth": 25, "short": "drop"}),
        (["--depth", "5", "--short", "fill", "--seed", "2"], {"depth": 5, "short": "fill", "seed": 2}),
        (["--depth", "300", "-n", "300", "--rule", "naive"], {"depth": 300, "n": 300, "rule": "naive"}),
        (["--class", "part", "-n", "50"], {"label": "part", "n": 50}),
        (["--class", "label", "-n", "50"], {"label": "label", "n": 50}),
    ]
    queried = stream(queries)
    for options, same in cases:
        want, p = list(mine(corpus, queries, **same)), run("mine-negs", index, *options, stdin=queried)
        ok(p.returncode == 0 and len(want) and lines(p) == want, f"NumPy mines the same: {' '.join(options) or 'defaults'}")
        other = run("mine-negs", index, *options, "--threads", "2",
                    stdin=stream(queries, size=1, order=[i ^ 3 for i in range(QUERIES)]))
        ok(other.stdout == p.stdout, "in other frames, in another order, on two threads: the same bytes")
    p = run("mine-negs", index, "--class", "nothing", stdin=queried)
    ok(p.returncode == 3 and b"no text has the field 'nothing'" in p.stderr, "a class that no text has is refused")
    alone = run("mine-negs", index, "--pick", "sample", stdin=stream(queries[21:22]))
    ok(alone.stdout in run("mine-negs", index, "--pick", "sample", stdin=queried).stdout and alone.stdout,
       "a query alone gets the negatives that it gets among others")


def check_sources(index, rows, queries):
    corpus = Corpus(rows)
    queried = stream(queries)
    hits = {}
    for h in lines(run("knn", "search", index, "--bm25", "-k", "100", stdin=queried)):
        hits.setdefault(h["query"], []).append(h)
    rankings = [[corpus.at[h["id"]] for h in hits.get(q[0], [])] for q in queries]
    got = lines(run("mine-negs", index, "--candidates", "both", "-n", "6", stdin=queried))
    want = list(mine(corpus, queries, n=6, rankings=rankings))
    ok([{k: v for k, v in g.items() if "bm25" not in k} for g in got] == want, "both rankings merged, scores the vectors'")
    score = {(q, h["id"]): h["score"] for q in hits for h in hits[q]}
    same = [abs(s - score.get((str(g["n"]), name), 0 if len(hits.get(str(g["n"]), [])) < 100 else s)) <= 1e-6
            for g in got for s, name in zip(g["neg_bm25"], g["neg_ids"])]
    ok(len(same) > 100 and all(same), "with BM25's scores beside them, those of texts that it did not find 0")
    textual = stream([(q[0], None, q[2], q[3]) for q in queries])
    got = lines(run("mine-negs", index, "--candidates", "bm25", "--rule", "naive", "-n", "3", stdin=textual))
    good = bool(got)
    for g in got:
        q = queries[g["n"]]
        answers = g["positive"] if isinstance(g["positive"], list) else [g["positive"]]
        left, seen = [], {normal(q[2]), *map(normal, answers)}
        for h in hits.get(q[0], []):
            text = normal(rows[corpus.at[h["id"]]][2])
            if text not in seen:
                seen.add(text)
                left.append(h["id"])
        good &= g["neg_ids"] == left[:3]
    ok(good, "BM25 alone needs no vectors")
    fields = [(q[0], q[1], q[2], {**q[3], "words": "word3 word4"}) for q in queries]
    p = lines(run("mine-negs", index, "--candidates", "bm25", "--rule", "naive", "--words", "words", stdin=stream(fields)))
    ok(p and all(any(w in normal(t).split() for w in ("word3", "word4")) for g in p for t in g["negative"]),
       "BM25 looks for what a field says")


def check_known(index, rows, queries, folder):
    corpus = Corpus(rows)
    near = [corpus.ranking(q[1])[0][:20] for q in queries]
    path = os.path.join(folder, "known.jsonl")
    pairs = set()
    with open(path, "w") as f:
        for number, (q, ranked) in enumerate(zip(queries, near)):
            for i in ranked[::2]:
                f.write(json.dumps({"sentence2": q[2], "sentence1": rows[i][2].upper(), "score": number % 5}) + "\n")
                if number % 5 > 2.5:
                    pairs.add((key(q[2]), corpus.keys[i]))
    got = lines(run("mine-negs", index, "--known", path, "--max-score", "2.5", "-n", "9", stdin=stream(queries)))
    ok(got == list(mine(corpus, queries, n=9, known=pairs)), "pairs that are known to be near, both ways, above a score")
    with open(path, "w") as f:
        for q, ranked in zip(queries, near):
            f.write(json.dumps({"query": q[2], "pos_ids": [rows[i][0] for i in ranked[::3]]}) + "\n")
    got = lines(run("mine-negs", index, "--known", path, "--rule", "naive", "-n", "2", stdin=stream(queries)))
    mine_own = {q[3]["n"]: {rows[i][0] for i in ranked[::3]} for q, ranked in zip(queries, near)}
    ok(len(got) == QUERIES and not any(mine_own[g["n"]] & set(g["neg_ids"]) for g in got), "or by their ids")


def check_rows(index, rows, queries):
    """Other forms of rows, and what is missing in them."""
    corpus = Corpus(rows)
    text = {r[2]: rows[corpus.by_text[normal(r[2])]][0] for r in rows}
    by_id = [(q[0], q[1], q[2], {"pos_ids": [text[p] for p in (q[3]["positive"] if isinstance(q[3]["positive"], list)
                                                                else [q[3]["positive"]])], "n": q[3]["n"]}) for q in queries]
    want, got = (lines(run("mine-negs", index, stdin=stream(x))) for x in (queries, by_id))
    ok([g["neg_ids"] for g in got] == [w["neg_ids"] for w in want] and got[0]["id"] == queries[want[0]["n"]][0]
       and got[0]["query"] == queries[want[0]["n"]][2] and isinstance(got[0]["positive"], list),
       "records with text and pos_ids: rows with query and positive")
    flag = [(q[0], q[1], q[2], {"query": q[2], "pos": [q[3]["positive"]] if isinstance(q[3]["positive"], str) else
                                q[3]["positive"], "neg": ["old"], "scores": [1]}) for q in queries]
    got = lines(run("mine-negs", index, stdin=stream(flag)))
    ok([g["neg"] for g in got] == [w["negative"] for w in want] and "scores" not in got[0] and "negative" not in got[0],
       "rows with pos get neg; old negatives and their scores go")
    bad = queries[:3] + [("bad", queries[3][1], "q", {"query": "q", "positive": "nobody knows it"})] + queries[4:]
    p = run("mine-negs", index, stdin=stream(bad))
    ok(p.returncode == 3 and b"row 'bad': positive 1 is not in" in p.stderr, "an unknown positive is 3 and named")
    p = run("mine-negs", index, "--skip-bad", stdin=stream(bad))
    ok(p.returncode == 0 and lines(p) == [w for w in want if w["n"] != 3] and b"1 bad rows skipped" in p.stderr,
       "or counted and passed over")
    p = run("mine-negs", index, "--no-scores", "--rule", "naive", stdin=stream(bad))
    ok(p.returncode == 0 and len(lines(p)) == QUERIES and "neg_scores" not in lines(p)[0], "without scores it may be unknown")
    broken = run("mine-negs", index, stdin=stream(queries, end=False))
    ok(broken.returncode == 6 and lines(broken) == want, "an upstream that died: its rows, and 6")
    damaged = bytearray(stream(queries))
    damaged[len(damaged) // 2] ^= 1
    ok(run("mine-negs", index, stdin=bytes(damaged)).returncode == 3, "a damaged stream is 3")
    p = run("mine-negs", index, stdin=stream(queries, space="elsewhere"))
    ok(p.returncode == 3 and b"elsewhere" in p.stderr, "another encoder is refused")
    p = run("mine-negs", index, stdin=stream([(q[0], None, q[2], q[3]) for q in queries]))
    ok(p.returncode == 3 and b"no column emb" in p.stderr, "a stream without vectors is refused")


def check_reapply(index, queries):
    everything = run("mine-negs", index, "--rule", "naive", "-n", "100", stdin=stream(queries)).stdout
    for options in (["--rule", "percent=0.9"], ["--rule", "margin=1", "--pos", "max", "-n", "2"], ["--pick", "sample"],
                    ["--rule", "abs=3", "--shift", "2", "--short", "drop", "-n", "9"]):
        direct, again = run("mine-negs", index, *options, stdin=stream(queries)), run("mine-negs", "--reapply", *options,
                                                                                      stdin=everything)
        ok(again.returncode == 0 and again.stdout == direct.stdout and again.stdout,
           f"the rule again without an index: {' '.join(options)}")
    both = run("mine-negs", index, "--candidates", "both", "--rule", "naive", "-n", "200", stdin=stream(queries)).stdout
    ok(run("mine-negs", "--reapply", stdin=both).stdout == run("mine-negs", index, "--candidates", "both",
                                                               stdin=stream(queries)).stdout, "of merged rankings, too")


def check_given(index, rows, queries):
    corpus = Corpus(rows)
    some = {g["n"]: [rows[(g["n"] * 7 + k * 13) % TEXTS][2] for k in range(12)] for g in (q[3] for q in queries)}
    given = [(q[0], q[1], q[2], {**q[3], "negative": some[q[3]["n"]]}) for q in queries]
    got = {g["n"]: g for g in lines(run("mine-negs", index, "--candidates", "given", "-n", "12", stdin=stream(given)))}
    good = bool(got)
    for q in queries:
        scores = corpus.vectors @ q[1]
        answers = q[3]["positive"] if isinstance(q[3]["positive"], list) else [q[3]["positive"]]
        bound = min(scores[corpus.by_text[normal(p)]] for p in answers)
        limit = f32(f32(0.95) * bound) if bound > 0 else f32(bound - f32(0.05))
        left = {corpus.by_text[normal(t)] for t in some[q[3]["n"]] if normal(t) not in {normal(q[2]), *map(normal, answers)}}
        want = sorted((i for i in left if scores[i] < limit), key=lambda i: (-scores[i], i))
        g = got.get(q[3]["n"], {"neg_ids": []})
        good &= g["neg_ids"] == [rows[i][0] for i in want]
        good &= len(g.get("neg_bm25", [])) == len(want)
    ok(good, "the negatives that rows have, by their scores, under the rule")
    given[5][3]["negative"] = ["nobody has this"]
    p = run("mine-negs", index, "--candidates", "given", stdin=stream(given))
    ok(p.returncode == 3 and b"negative 1 is not in" in p.stderr, "one that the index lacks is named")


def check_teachers(index, rows, queries, folder):
    other = [(r[0], np.roll(r[1], 1), r[2], r[3]) for r in rows[::-1]]
    second, path = os.path.join(folder, "second.idx"), os.path.join(folder, "second.vp")
    run("knn", "add", "-q", second, stdin=stream(other, space="there"))
    with open(path, "wb") as f:
        f.write(stream(queries, space="there", size=11))
    corpora = [Corpus(rows), Corpus(other)]
    want = []
    one, two = ({w["n"]: w for w in mine(c, queries, n=1)} for c in corpora)
    for q in queries:
        found = [x[q[3]["n"]] for x in (one, two) if q[3]["n"] in x]
        if found:
            scores = corpora[0].vectors @ q[1]
            names = [x["neg_ids"][0] for x in found]
            first = [corpora[0].by_text[normal(x["negative"][0])] for x in found]
            want.append((q[3]["n"], names, [float(scores[i]) for i in first]))
    p = run("mine-negs", "-n", "1", index, "-", second, path, stdin=stream(queries))
    ok([(g["n"], g["neg_ids"], g["neg_scores"]) for g in lines(p)] == want, "two teachers: a negative of each, the first's scores")
    p = run("mine-negs", "-n", "1", "--duplicates", "drop", index, "-", second, path, stdin=stream(queries))
    ok(p.returncode == 0 and all(len(set(map(normal, g["negative"]))) == len(g["negative"]) for g in lines(p)),
       "each text once")
    p = run("mine-negs", index, "-", second, path, stdin=stream(queries[1:]))
    ok(p.returncode == 3 and b"not of the same rows" in p.stderr, "streams of other rows are refused")


def check_chunks(folder):
    """A record in chunks: its best one counts as the positive, none is a negative."""
    index = os.path.join(folder, "chunks.idx")
    vectors = {"a#0": [1, 0], "a#1": [4, 0], "b#0": [3, 0], "b#1": [3, 1], "c#0": [5, 0]}
    columns = {"id": list(vectors), "emb": tensor(np.array(list(vectors.values()), f32)), "text": [f"text {i}" for i in vectors],
               "parent": [i[0] for i in vectors]}
    data = header("here") + frame({"kind": "batch", "seq": 0, "columns": columns}) + frame({"kind": "end", "batches": 1})
    run("knn", "add", index, stdin=data)
    row = [("q", np.array([1, 0], f32), "q", {"query": "q", "pos_ids": "a"})]
    got = lines(run("mine-negs", index, stdin=stream(row)))
    ok(got and got[0]["neg_ids"] == ["b#0", "b#1"] and got[0]["pos_scores"] == [4] and got[0]["positive"] == ["text a#1"],
       "chunks of a known record")


def main():
    folder = tempfile.mkdtemp()
    try:
        index, rows, queries = make(folder)
        check_rules(index, rows, queries)
        check_sources(index, rows, queries)
        check_known(index, rows, queries, folder)
        check_rows(index, rows, queries)
        check_reapply(index, queries)
        check_given(index, rows, queries)
        check_teachers(index, rows, queries, folder)
        check_chunks(folder)
    finally:
        shutil.rmtree(folder)
    return done()


sys.exit(main())
