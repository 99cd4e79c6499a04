#!/usr/bin/env python3
"""Hard negatives and teacher scores for one set of pairs, from what `knn` found; and the split into training and held-out
rows.

usage: negatives.py texts PAIRS FOLDER      passages.texts, queries.texts and words.texts, JSON lines with id and text;
                                            words: of a query those that BM25 can tell passages apart by
       negatives.py rows PAIRS FOLDER OUT   FOLDER has passages, queries (knn export), dense, bm25 (knn search), .jsonl
       negatives.py plain PAIRS OUT         the pairs alone, negatives only where they were judged

OUT gets the training rows, OUT with `.dev` before its ending the held-out ones, one in a hundred:
{query, positive, negative [], scores [], dense [], bm25 [], source}. The lists of scores begin with the positive's. `dense`
is the cosine of the dense teacher; `bm25` as SQLite counts it; scores = 0.75 dense + 0.25 bm25 / max(bm25 of the row).
"""
import array, contextlib, json, operator, os, sys
from prose import ENGLISH, WORD, chance, key

HELD_OUT = 0.01
HITS = 64            # what knn was asked for
KEPT = 4             # negatives of a row, half of them from each kind of search
SHARE = 0.95         # a negative's cosine is below this share of the positive's: what is nearer may be an answer too
LEAST = 0.2          # a pair whose own cosine is less is taken for noise
BM25_WEIGHT = 0.25


def read(path):
    with open(path, encoding="utf-8") as f:
        for line in f:
            value = json.loads(line)
            if "_vp" not in value:
                yield value


def is_held_out(row):
    """By what must not be divided, so that no passage of a held-out section is trained on."""
    return chance("held out", row["part"]) < HELD_OUT


def passages_of(number, row):
    """(id, text) of the positive, then of judged negatives."""
    yield str(number), row["positive"]
    for k, text in enumerate(row.get("negative", ())):
        yield f"{number}-{k}", text


def content_words(text):
    """Function words weigh nothing in BM25 but match every passage, which takes most of the time."""
    return " ".join(w for w in WORD.findall(text.lower()) if w not in ENGLISH) or text


def write_texts(pairs, folder):
    def write(f, name, text):
        f.write(json.dumps({"id": name, "text": text}) + "\n")

    with contextlib.ExitStack() as stack:
        passages, queries, words = (stack.enter_context(open(f"{folder}/{name}.texts", "w", encoding="utf-8"))
                                    for name in ("passages", "queries", "words"))
        for number, row in enumerate(read(pairs)):
            write(queries, str(number), row["query"])
            write(words, str(number), content_words(row["query"]))
            for name, text in passages_of(number, row):
                write(passages, name, text)


def read_vectors(path):
    return {r["id"]: array.array("f", r["emb"]) for r in read(path)}


def read_hits(path):
    """{query: {passage: score}}, best first."""
    found = {}
    for hit in read(path):
        found.setdefault(hit["query"], {})[hit["id"]] = hit["score"]
    return found


def dot(a, b):
    return sum(map(operator.mul, a, b))


def bm25_of(name, hits):
    """A passage that is not among the hits scores no more than the last of them, and 0 where all that match are there."""
    return hits.get(name, min(hits.values()) if len(hits) >= HITS else 0.0)


def blend(dense, bm25):
    most = max(bm25) or 1.0
    return [round((1 - BM25_WEIGHT) * d + BM25_WEIGHT * b / most, 4) for d, b in zip(dense, bm25)]


def pick(own, cosine, dense, bm25, allowed):
    """The best hits of each search in turn whose cosine leaves room below the positive's."""
    picked, limit = [], SHARE * cosine(own)
    sources = [iter(dense), iter(bm25)]
    while sources and len(picked) < KEPT:
        source = sources.pop(0)
        name = next((n for n in source if n not in picked and allowed(n) and cosine(n) < limit), None)
        if name is not None:
            picked.append(name)
            sources.append(source)
    return picked


def scored_rows(rows, vectors, questions, dense, bm25):
    """Finished rows with whether they are held out; a held-out passage is no negative of a training row."""
    owner = {name: number for number, row in enumerate(rows) for name, _ in passages_of(number, row)}
    text = {name: words for number, row in enumerate(rows) for name, words in passages_of(number, row)}
    held = [is_held_out(row) for row in rows]
    for number, row in enumerate(rows):
        own, known = str(number), {key(row["query"]), key(row["positive"])}
        question = questions[own]

        def cosine(name):
            return dot(question, vectors[name])

        def allowed(name):
            other = rows[owner[name]]
            return (name != own and other["part"] != row["part"] and other["query"] != row["query"]
                    and held[owner[name]] <= held[number] and key(text[name]) not in known)

        if cosine(own) < LEAST:
            continue
        lexical = bm25.get(own, {})
        judged = sorted((n for n, _ in passages_of(number, row) if n != own), key=cosine, reverse=True)[:KEPT]
        negatives = judged or pick(own, cosine, dense.get(own, {}), lexical, allowed)
        names = [own, *negatives]
        cosines = [round(cosine(n), 4) for n in names]
        words = [round(bm25_of(n, lexical), 3) for n in names]
        yield held[number], {"query": row["query"], "positive": row["positive"], "negative": [text[n] for n in negatives],
                             "scores": blend(cosines, words), "dense": cosines, "bm25": words, "source": row["source"]}


def write_rows(out, rows):
    """Both files appear whole, the training rows last."""
    stem, ending = os.path.splitext(out)
    paths = [out, f"{stem}.dev{ending}"]
    files = [open(path + ".new", "w", encoding="utf-8") for path in paths]
    for is_held, row in rows:
        files[is_held].write(json.dumps(row, ensure_ascii=False) + "\n")
    for f, path in reversed(list(zip(files, paths))):
        f.close()
        os.rename(path + ".new", path)


def main(command, pairs, *paths):
    if command == "texts":
        write_texts(pairs, *paths)
        return
    rows = list(read(pairs))
    if command == "plain":
        write_rows(paths[0], ((is_held_out(r), {k: v for k, v in r.items() if k != "part"}) for r in rows))
    else:
        folder, out = paths
        vectors, questions = (read_vectors(f"{folder}/{name}.jsonl") for name in ("passages", "queries"))
        dense, bm25 = (read_hits(f"{folder}/{name}.jsonl") for name in ("dense", "bm25"))
        write_rows(out, scored_rows(rows, vectors, questions, dense, bm25))


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[1] not in ("texts", "rows", "plain"):
        sys.exit(__doc__)
    main(*sys.argv[1:])
