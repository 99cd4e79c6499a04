#!/usr/bin/env python3
"""pipelines/rows on a few rows of public data sets: what a row may hold, and that draws depend on nothing but text and seed.

usage: test_rows.py      environment: REPO (as tests/run sets it)
"""
import json, os, random, subprocess, sys, tempfile
from tap import done, ok

REPO = os.environ["REPO"]
BANKING, STSB = (f"{REPO}/tests/data/{name}" for name in ("banking77.jsonl", "stsb.tsv"))
sys.path.insert(0, f"{REPO}/pipelines/data")
import builders, layouts, leaks  # noqa: E402


def rows(*words, given=""):
    """The rows that the program writes for this input."""
    made = subprocess.run([f"{REPO}/pipelines/rows", *words], input=given.encode(), capture_output=True, check=True)
    head, *lines, end = made.stdout.decode().splitlines()
    assert json.loads(head) == {"_vp": {"jsonl": 1}} and json.loads(end) == {"_vp": {"end": True, "rows": len(lines)}}
    return [json.loads(line) for line in lines]


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def lines_of(*values):
    return "".join(json.dumps(value) + "\n" for value in values)


def shuffled(path):
    lines = read(path).splitlines(keepends=True)
    random.Random(1).shuffle(lines)
    return "".join(lines)


LABEL = {r["text"]: r["label"].replace("_", " ") for r in map(json.loads, read(BANKING).splitlines())}


def test_examples():
    made = rows("labelled", BANKING)
    ok(len(made) == len(LABEL) and {r["query"] for r in made} == set(LABEL), "labelled: a row for every text")
    ok(all(r["class"] == LABEL[r["query"]] == LABEL[r["pos"][0]] and r["pos"] != [r["query"]] for r in made),
       "labelled: the positive is another text of the class")
    ok(all(len(set(r["neg"])) == 7 and r["class"] not in map(LABEL.get, r["neg"]) for r in made),
       "labelled: seven negatives, none of the class, none twice")
    ok(rows("labelled", given=shuffled(BANKING)) == made, "labelled: the order of the input changes nothing")
    other = {r["query"]: r for r in rows("labelled", "--seed", "1", BANKING)}
    ok(sum(other[r["query"]]["pos"] != r["pos"] for r in made) > 20, "labelled: another seed, another draw")
    few = rows("labelled", "--rows", "12", BANKING)
    ok(sorted([r["class"] for r in few].count(c) for c in set(LABEL.values())) == [2, 2, 2, 3, 3], "labelled: classes share --rows")
    ok([r for r in made if r in few] == few, "labelled: fewer rows are rows of all")


def test_labels():
    made = rows("labelled", "--by", "label", "--negatives", "9", BANKING)
    ok(all(r["pos"] == [LABEL[r["query"]]] and sorted(r["neg"] + r["pos"]) == sorted(set(LABEL.values())) for r in made),
       "labels: the positive is the label, negatives are the others, as many as there are")
    ok(rows("labelled", "--by", "label", "--negatives", "9", given=shuffled(BANKING)) == made, "labels: order changes nothing")
    two = lines_of(*({"text": f"text {i}", "label": i % 2, "label_text": ["no", "yes"][i % 2]} for i in range(6)))
    ok({r["pos"][0] for r in rows("labelled", given=two)} == {"no", "yes"}, "labels: of two classes the labels are positives")
    ok({r["pos"][0][:4] for r in rows("labelled", "--by", "example", given=two)} == {"text"}, "labels: unless examples are wanted")


def test_several_labels():
    papers = [{"title": f"paper {i}", "categories": ["a", "b"] if i < 4 else ["b"] if i < 6 else ["c", "d"]} for i in range(9)]
    made = rows("labelled", "--text", "title", "--label", "categories", "--negatives", "9", given=lines_of(*papers))
    number = {r["query"]: int(r["query"][6:]) for r in made}
    ok(all({number[n] >= 6 for n in r["neg"]} == {number[r["query"]] < 6} for r in made),
       "several labels: a text that shares one is no negative, and all others are found")
    ok({tuple(r["class"]) for r in made if number[r["query"]] < 4} == {("a", "b")}, "several labels: the class holds all")
    both = [{"sentences": ["x", "y", "x ", "z", "u"], "labels": ["a", "a", "b", "b", "c"]}]
    made = {r["query"]: r for r in rows("labelled", "--by", "example", given=lines_of(*both))}
    ok(made["x"]["class"] == ["a", "b"] and made["x"]["neg"] == ["u"] and "u" not in made,
       "clustering: one text with two labels has both; a text alone with its label has no row")


def test_corpus():
    with tempfile.TemporaryDirectory() as folder:
        made = rows("labelled", "--corpus", f"{folder}/corpus", BANKING)
        corpus = {r["id"]: r for r in map(json.loads, read(f"{folder}/corpus").splitlines())}
        ok(all(corpus[name]["text"] == text for r in made
               for name, text in zip(r["pos_ids"] + r["neg_ids"], r["pos"] + r["neg"])), "corpus: ids and texts are those of the rows")
        ok({r["text"]: r["class"] for r in corpus.values()} == LABEL, "corpus: every text with its class")


def test_sts():
    pairs = [(float(s), a, b) for s, a, b in (line.split("\t") for line in read(STSB).splitlines())]
    good = {(a, b) for s, a, b in pairs if s >= 4}
    with tempfile.TemporaryDirectory() as folder:
        made = rows("sts", "--known", f"{folder}/known", "--corpus", f"{folder}/corpus", STSB)
        known = {r["query"]: set(r["pos"]) for r in map(json.loads, read(f"{folder}/known").splitlines())}
        corpus = {json.loads(line)["text"] for line in read(f"{folder}/corpus").splitlines()}
    ok({(r["query"], r["pos"][0]) for r in made} == good | {(b, a) for a, b in good} and len(made) == 2 * len(good),
       "sts: pairs of at least 4, both ways, once")
    near = {(a, b) for s, a, b in pairs if s > 2.5}
    ok({(q, t) for q, texts in known.items() for t in texts} == near | {(b, a) for a, b in near}, "sts: what is above 2.5 is known")
    ok(corpus == {t for _, *ab in pairs for t in ab}, "sts: the corpus has all texts")
    ok(rows("sts", given=shuffled(STSB)) == made, "sts: the order of the input changes nothing")
    spelled = lines_of(*({"sentence1": a, "sentence2": b, "score": s} for s, a, b in pairs))
    ok(rows("sts", given=spelled) == made, "sts: MTEB's layout gives the same rows")


LAYOUTS = [
    ("GRIT", {"query": ["i", "q"], "pos": [["", "t a"]], "neg": [["", "b"]]}),
    ("FlagEmbedding", {"query": "q", "pos": ["t a"], "neg": ["b"], "pos_scores": [1.5], "neg_scores": [0.5], "prompt": "i"}),
    ("tevatron", {"query_id": "7", "query": "q", "instruction": "i",
                  "positive_passages": [{"docid": "1", "title": "t", "text": "a"}],
                  "negative_passages": [{"docid": "2", "title": "", "text": "b"}]}),
    ("E5", {"query": "q", "positive": "t a", "negative": "b", "instruction": "i"}),
    ("MTEB reranking", {"query": "q", "positive": ["t a"], "negative": ["b"], "instruction": "i"}),
]


def test_layouts():
    made = rows("convert", given=lines_of(*(layout for _, layout in LAYOUTS)))
    for (name, _), row in zip(LAYOUTS, made):
        ok([row[k] for k in ("query", "instruction", "pos", "neg")] == ["q", "i", ["t a"], ["b"]], f"layout of {name}")
    ok((made[1]["pos_scores"], made[1]["neg_scores"]) == ([1.5], [0.5]), "layouts: scores stay")
    ok((made[2]["id"], made[2]["pos_ids"], made[2]["neg_ids"]) == ("7", ["1"], ["2"]), "layouts: the set's own identifiers stay")
    ok(rows("convert", given=lines_of(*made)) == made, "layouts: a row is a layout, too")
    both = rows("convert", "--instruction", "j", "--symmetric", given=lines_of(LAYOUTS[0][1]))
    ok((both[0]["instruction"], both[0]["pos"], both[0]["neg"]) == ("j", [["j", "t a"]], [["j", "b"]]), "an instruction for both sides")


def write_beir(folder):
    os.mkdir(f"{folder}/qrels")
    for name, text in (("corpus.jsonl", lines_of(*({"_id": f"d{i}", "title": "t", "text": f"x{i}"} for i in range(5)))),
                       ("queries.jsonl", lines_of(*({"_id": str(i), "text": f"q{i}"} for i in range(3)))),
                       ("qrels/train.tsv", "query-id\tcorpus-id\tscore\n0\td0\t2\n0\td1\t1\n0\td2\t0\n1\td3\t0\n2\td4\t1\n")):
        with open(f"{folder}/{name}", "w", encoding="utf-8") as f:
            f.write(text)


def test_beir():
    with tempfile.TemporaryDirectory() as folder:
        write_beir(folder)
        made = rows("beir", folder)
        ok([(r["id"], r["query"], r["pos"], r["pos_ids"], r.get("neg")) for r in made] ==
           [("0", "q0", ["t x0", "t x1"], ["d0", "d1"], ["t x2"]), ("2", "q2", ["t x4"], ["d4"], None)],
           "beir: queries with answers; what was judged and is none is a negative")
        made = rows("beir", folder, "--least", "2", "--known", f"{folder}/known")
        ok([r["pos_ids"] for r in made] == [["d0"]], "beir: the least grade")
        ok([json.loads(line)["pos_ids"] for line in read(f"{folder}/known").splitlines()] == [["d1"]], "beir: grades below it are known")


def test_passages():
    text = "".join(f"Sentence {i} has five words{'.' if i % 4 < 3 else '!'}\n" + "\n" * (i == 9) for i in range(18))
    made = rows("passages", "--words", "12", given=text)
    numbers = [[int(w) for w in r["input"].split() if w.isdigit()] for r in made]
    ok(numbers == [[0, 1], [2, 3], [4, 5], [6, 7], [10, 11], [12, 13], [14, 15]],
       "passages: whole sentences, and no border of documents is crossed")
    ok(all(r["output_summarize"] == r["input"] for r in made) and
       [r["output_predict"] for r in made][:3] == [r["input"] for r in made][1:4] and made[3]["output_predict"].startswith("Sentence 8"),
       "passages: each with the next one")
    ok(rows("passages", "--words", "4", "--remove-stop-words", given="The cat, it sat.\nOn A mat: don't!\n") ==
       [{"input": "The cat, it sat.", "output_summarize": "cat sat", "output_predict": "mat"}], "passages: without stop words")
    records = lines_of(*({"text": " ".join(part.split())} for part in text.split("\n\n")))
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/texts.jsonl", "w", encoding="utf-8") as f:
            f.write(records)
        ok(rows("passages", "--words", "12", f"{folder}/texts.jsonl") == made, "passages: records are documents")
    ok([" ".join(p.split()) for p in builders.passages("w " * 25, 10)] == ["w " * 9 + "w"] * 2 + ["w " * 4 + "w"] and
       [len(p.split()) for p in builders.passages("w " * 22, 10)] == [10, 10], "passages: long sentences are cut, short rests dropped")


def test_leaks():
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/test.tsv", "w", encoding="utf-8") as f:
            f.write("5\tA  MAN is playing: a guitar\tthree words only\n")
        made, all_rows = rows("sts", "--without", f"{folder}/test.tsv", STSB), rows("sts", STSB)
        ok(made == [r for r in all_rows if "A man is playing a guitar." not in (r["query"], *r["pos"])] and len(made) < len(all_rows),
           "test sets: a text of theirs is in no row")
        held = next(iter(LABEL))
        with open(f"{folder}/test.jsonl", "w", encoding="utf-8") as f:
            f.write(lines_of({"text": held.upper(), "label": LABEL[held]}))
        made = rows("labelled", "--without", f"{folder}/test.jsonl", BANKING)
        ok(len(made) == len(LABEL) - 1 and not any(held in r["neg"] + r["pos"] for r in made), "test sets: nor a negative")
        sentence = "Sentence 5 has five words."
        with open(f"{folder}/test.tsv", "w", encoding="utf-8") as f:
            f.write(sentence)
        text = " ".join(f"Sentence {i} has five words." for i in range(12))
        made = rows("passages", "--words", "10", "--without", f"{folder}/test.tsv", given=text)
        ok([r["input"][:10] for r in made] == ["Sentence 0", "Sentence 6", "Sentence 8"] and sentence not in str(made),
           "test sets: nor a sentence of a passage")
        ok(leaks.words_of("Ça va, 東京") == ("ça", "va", "東", "京") and leaks.is_long("東京大学"), "test sets: letters of all scripts")


def test_draws():
    ok(sorted(set(builders.draws(7, 1, "x"))) == list(range(7)), "draws: every number comes")
    taken = [next(builders.draws(5, 1, "seed", str(i))) for i in range(2000)]
    ok(all(320 < taken.count(k) < 480 for k in range(5)), "draws: evenly")
    ok(layouts.digest("A  text") == layouts.digest("a text") != layouts.digest("a texts"), "names: of the text, not of its case")


if __name__ == "__main__":
    for test in (test_examples, test_labels, test_several_labels, test_corpus, test_sts, test_layouts, test_beir, test_passages,
                 test_leaks, test_draws):
        test()
    sys.exit(done())
