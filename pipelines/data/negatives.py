#!/usr/bin/env python3
"""Between a set of pairs and mine-negs: what it is given, and what becomes of its triples; and the split into training and
held-out rows.

usage: negatives.py texts PAIRS FOLDER      for SPLIT train and dev: SPLIT.texts, the passages; SPLIT.both and SPLIT.given,
                                            the rows whose negatives are to be mined and those that have judged ones
       negatives.py rows FOLDER OUT         FOLDER has SPLIT.both.mined and SPLIT.given.mined
       negatives.py plain PAIRS OUT         the pairs alone, negatives only where they were judged

OUT gets the training rows, OUT with `.dev` before its ending the held-out ones, one in a hundred:
{query, positive, negative [], scores [], dense [], bm25 [], source}. The lists of scores begin with the positive's. `dense`
is the cosine of the dense teacher; `bm25` as SQLite counts it; scores = 0.75 dense + 0.25 bm25 / max(bm25 of the row).
"""
import json, os, sys
from prose import ENGLISH, WORD, chance

HELD_OUT = 0.01
LEAST = 0.2          # a pair whose own cosine is less is taken for noise
BM25_WEIGHT = 0.25
SPLITS = ("train", "dev")


def read(path):
    with open(path, encoding="utf-8") as f:
        yield from map(json.loads, f)


def is_held_out(row):
    """By what must not be divided, so that no passage of a held-out section is trained on."""
    return chance("held out", row["part"]) < HELD_OUT


def content_words(text):
    """Function words weigh nothing in BM25 but match every passage, which takes most of the time."""
    return " ".join(w for w in WORD.findall(text.lower()) if w not in ENGLISH) or text


def texts_and_rows(pairs):
    """(file, record): passages are the positive, NUMBER, and judged negatives, NUMBER-K, of the row of that number."""
    for number, row in enumerate(pairs):
        split, judged = SPLITS[is_held_out(row)], row.get("negative", [])
        for k, text in enumerate([row["positive"], *judged]):
            yield f"{split}.texts", {"id": f"{number}-{k - 1}" if k else str(number), "text": text, "part": row["part"]}
        yield f"{split}.{'given' if judged else 'both'}", {**row, "pos_ids": [str(number)], "words": content_words(row["query"])}


def blend(dense, bm25):
    most = max(bm25) or 1.0
    return [round((1 - BM25_WEIGHT) * d + BM25_WEIGHT * b / most, 4) for d, b in zip(dense, bm25)]


def finished(triples):
    """What mine-negs printed, as rows of the set."""
    for t in triples:
        dense = [round(s, 4) for s in t["pos_scores"] + t["neg_scores"]]
        bm25 = [round(s, 3) for s in t["pos_bm25"] + t["neg_bm25"]]
        if t["pos_scores"][0] >= LEAST:
            yield {"query": t["query"], "positive": t["positive"], "negative": t["negative"], "scores": blend(dense, bm25),
                   "dense": dense, "bm25": bm25, "source": t["source"]}


def write_all(files):
    """{path: records}; every file appears whole, the last one last."""
    for path, records in files.items():
        with open(path + ".new", "w", encoding="utf-8") as f:
            f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
    for path in files:
        os.rename(path + ".new", path)


def write_rows(out, train, dev):
    stem, ending = os.path.splitext(out)
    write_all({f"{stem}.dev{ending}": dev, out: train})


def mined(folder, split):
    triples = [t for kind in ("both", "given") for t in read(f"{folder}/{split}.{kind}.mined")]
    return finished(sorted(triples, key=lambda t: int(t["pos_ids"][0])))


def main(command, source, target):
    if command == "texts":
        files = {f"{split}.{kind}": [] for split in SPLITS for kind in ("texts", "both", "given")}
        for name, record in texts_and_rows(read(source)):
            files[name].append(record)
        write_all({f"{target}/{name}": records for name, records in files.items()})
    elif command == "rows":
        write_rows(target, mined(source, "train"), mined(source, "dev"))
    else:
        split = {True: [], False: []}
        for row in read(source):
            split[is_held_out(row)].append({k: v for k, v in row.items() if k != "part"})
        write_rows(target, split[False], split[True])


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("texts", "rows", "plain"):
        sys.exit(__doc__)
    main(*sys.argv[1:])
