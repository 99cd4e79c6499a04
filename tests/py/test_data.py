#!/usr/bin/env python3
"""The pure parts of the training data's scripts, pipelines/data: readers, cleaning, choice of rows, negatives and scores.

usage: test_data.py      environment: REPO (as tests/run sets it)
"""
import gzip, json, os, subprocess, sys, tempfile
from tap import done, ok

CODE = os.path.join(os.environ["REPO"], "pipelines", "data")
sys.path.insert(0, CODE)
import leaks, negatives, prose, readers, sets  # noqa: E402

GLOSSES = {
    "wing": "wing\n    n 1: a movable organ for flying (one of a pair)\n"
            "    2: one of the horizontal airfoils on either side of the\n       fuselage of an airplane; \"the wing broke\" "
            "[syn: {wing}, {aerofoil}] [ant: {tail}]\n",
    "lift": "lift\n    v 1: raise from a lower to a higher position\n",
}
DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def base64_number(value):
    digits = DIGITS[value % 64]
    while value := value // 64:
        digits = DIGITS[value % 64] + digits
    return digits


def write_dictionary(folder):
    data, lines = b"", []
    for word, entry in GLOSSES.items():
        lines.append(f"{word}\t{base64_number(len(data))}\t{base64_number(len(entry))}\n")
        data += entry.encode()
    lines.append(lines[0].replace("wing", "wings"))  # a second headword of the first entry
    with open(f"{folder}/wn.index", "w") as f:
        f.writelines(["00-database-info\tA\tB\n", *lines])
    with gzip.open(f"{folder}/wn.dict.dz", "wb") as f:
        f.write(data)


def test_dictionary():
    with tempfile.TemporaryDirectory() as folder:
        write_dictionary(folder)
        entries = list(readers.read_dictionary(f"{folder}/wn.index", f"{folder}/wn.dict.dz"))
        ok([word for word, _ in entries] == ["wing", "lift"], "dictd: each entry once, without the database's own")
        senses = list(readers.wordnet_senses(*entries[0]))
        ok(senses == [("wing", "a movable organ for flying (one of a pair)"),
                      ("wing, aerofoil", "one of the horizontal airfoils on either side of the fuselage of an airplane")],
           "dictd: WordNet's senses with synonyms, without examples and opposites")
    first = 'Rhombohedron \\Rhom`bo*hed"ron\\, n. [NL., fr. Gr. [a^] + seat.] (Geom.)'
    ok(list(readers.gcide_senses(first, "   A solid contained by\n   six rhomboids. --Hutton.\n   [1913 Webster]\n"))
       == [("Rhombohedron", "A solid contained by six rhomboids.")], "dictd: Webster without pronunciation, origin and author")
    ok(list(readers.plain_senses("phishing", '\n   <security> ("carding")\n   /fishing/ Sending {e-mail} to\n   users.\n   (2006-01-02)\n'))
       == [("phishing", "Sending e-mail to users.")], "dictd: FOLDOC without subject, pronunciation, links and date")


MAN = r""".\" a comment
.TH FOO 1
.SH NAME
foo, bar \- measure the \fIlift\fR of a wing
.SH SYNOPSIS
.B foo
.SH DESCRIPTION
.B foo
reads pressures from
.IR file (5),
one a line\(em
.PP
It writes the lift.
.TP
.B \-x
not this
.SH BUGS
None.
"""
MDOC = """.Dd today
.Dt FOO 1
.Sh NAME
.Nm foo
.Nd measure lift
.Sh DESCRIPTION
.Nm
reads
.Ar file ,
see
.Xr bar 3 .
"""


def test_man():
    page = readers.read_man(MAN)
    ok(page["NAME"] == ["foo, bar - measure the lift of a wing"], "man: the line of NAME")
    ok(page["DESCRIPTION"] == ["foo reads pressures from file(5), one a line -", "It writes the lift."],
       "man: paragraphs of DESCRIPTION end before the list")
    page = readers.read_man(MDOC)
    ok(page["NAME"] == ["foo - measure lift"], "mdoc: the line of NAME")
    ok(page["DESCRIPTION"] == ["foo reads file, see bar(3)."], "mdoc: arguments, references, punctuation")


HTML = """<html><head><title>Wings &mdash; a manual</title><style>p { }</style></head><body><nav><p>Up</p></nav>
<h2>Lift of a <em>wing</em></h2><p>Air is <code>turned</code> down.<br>So the wing goes up.</p><pre>x = 1</pre>
<ul><li>skipped <ul><li>too</li></ul></li></ul><p>Second.</p><h3>Drag</h3><p>Air resists.</p></body></html>"""
DOCBOOK = "<sect1><title>Stars</title><para>A <firstterm>star</firstterm> shines.</para></sect1>"


def test_pages():
    title, sections = readers.read_html(HTML)
    ok(title == "Wings \u2014 a manual", "html: title")
    ok(sections[1:] == [["Lift of a wing", ["Air is turned down. So the wing goes up.", "Second."]], ["Drag", ["Air resists."]]],
       "html: headings and paragraphs, without navigation, code and lists")
    ok(readers.read_html(DOCBOOK)[1][1:] == [["Stars", ["A star shines."]]], "docbook: titles and paras")
    ok(sets.heading_query("Wings \u2014 a manual", "1.2 Drag") == "Wings: Drag", "a short heading takes the page's title")
    ok(sets.heading_query("Lift of wings - manual", "Introduction") == "Lift of wings", "a bare heading gives way to it")


def test_descriptions():
    lines = ["Package: foo", "Description-md5: 1", "Description-en: measure lift", " First line,", " second.", " .", "  * a list", " .",
             " Third.", "", "Package: foo", "Source: foosrc (1)", "Depends: x", " y", "Description-md5: 1", ""]
    text, package = readers.read_stanzas(line + "\n" for line in lines)
    ok(readers.description_paragraphs(text["Description-en"][1:]) == ["First line, second.", "Third."],
       "descriptions: paragraphs without lists")
    ok(package == {"Package": "foo", "Source": "foosrc (1)", "Description-md5": "1"}, "descriptions: fields of a package")


def test_prose():
    ok(prose.split_sentences("See e.g. Fig. 2 here. It by J. Smith is old! Is it?") ==
       ["See e.g. Fig. 2 here.", "It by J. Smith is old!", "Is it?"], "sentences: abbreviations and initials end none")
    ok(prose.cut("One two three. Four five. Six.", 5) == "One two three. Four five.", "cut: whole sentences")
    ok(prose.is_prose("The lift of a wing is the force that is normal to the flow.") and
       not prose.is_prose("for (i = 0; i < n; i++) { a[i] = b_i * c[i]; } is the loop of it"), "prose: code is none")
    ok(not prose.is_english("Le vent souffle dans les voiles du bateau blanc"), "prose: other languages are not English")
    ok(not prose.is_pair("the lift of wings", "The lift of wings, as measured by them."), "a pair: not its query again")


def test_choice():
    rows = [sets.row(f"what is thing number {i}", f"thing {i} is the answer to that question of number {i}", source)
            for source, i in [("a", n) for n in range(10)] + [("b", n) for n in range(10, 12)]]
    chosen = sets.choose("docs", rows + rows, 6)
    ok(sorted(r["source"] for r in chosen) == list("aaaabb"), "choice: each row once, sources share evenly")
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/pairs.tsv", "w") as f:
            f.write("1\tA plane is taking off.\tThe cat sat on the mat.\n0\tWho is the man there?\tNo one is there now.\n")
        with open(f"{folder}/test.jsonl", "w") as f:
            f.write(json.dumps({"query": "x", "negative": ["the CAT sat on the mat", "short"]}) + "\n")
        ok(leaks.Leaks([f"{folder}/test.jsonl"]).texts == {("the", "cat", "sat", "on", "the", "mat")}, "test sets: their texts of four words")
        out = f"{folder}/out.jsonl"
        refused = subprocess.run([sys.executable, f"{CODE}/sets.py", "stsb-scores", "9", f"{folder}/pairs.tsv", out,
                                  f"{folder}/test.jsonl"], capture_output=True, check=True)
        with open(out) as f:
            left = [json.loads(line)["sentence1"] for line in f]
        ok(left == ["Who is the man there?"] and b"1 held" in refused.stderr, "test sets: no row holds one of their texts")


DATA = os.path.join(os.environ["REPO"], "tests", "data")


def test_given():
    texts = [(f"text number {i}", "ab"[i % 2], f"part {i}") for i in range(900)]
    rows = list(sets.labelled_rows(texts, "s"))
    split = {text: negatives.is_held_out({"part": part}) for text, _, part in texts}
    ok(sum(split.values()) > 4 and all(split[t] == split[r["query"]] == negatives.is_held_out(r)
                                       for r in rows for t in (r["positive"], *r["negative"])),
       "labelled: no row holds both training and held-out texts")
    rows = list(sets.banking77(f"{DATA}/banking77.jsonl"))
    shares = [r["source"] for r in sets.choose("banking77", rows, 10)]
    ok(len(shares) == 10 and all(shares.count(s) == 2 for s in shares), "labelled: classes share evenly")
    stanzas = "".join(f"Description-md5: {i}\nDescription-en: {word} with a purpose\n {word} does it.\n\nPackage: p{i}\nSection: {section}\n"
                      f"Description-md5: {i}\n\n" for i, (word, section) in
                      enumerate([("sing", "sound"), ("hum", "sound"), ("draw", "graphics"), ("link", "libs"), ("paint", "graphics")]))
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/lists", "w") as f:
            f.write(stanzas)
        rows = {r["query"].split()[0]: r for r in sets.sections(f"{folder}/lists")}
    ok(sorted(rows) == ["draw", "hum", "paint", "sing"] and rows["sing"]["positive"] == "hum with a purpose" and
       sorted(rows["sing"]["negative"]) == ["draw with a purpose", "paint with a purpose"], "sections: of a topic, not of a form")


def test_sts():
    rows = list(sets.stsb_both(f"{DATA}/stsb.tsv"))
    ok(len(rows) == 2 * len({frozenset((r["query"], r["positive"])) for r in rows}), "sts: both ways")
    part = {r["query"]: r["part"] for r in rows}
    with open(f"{DATA}/stsb.tsv", encoding="utf-8") as f:
        near = [pair for score, *pair in (line.rstrip("\n").split("\t") for line in f) if float(score) > 2.5]
    ok(all(part[a] == part[b] for a, b in near if a in part and b in part) and len(set(part.values())) > 3,
       "sts: texts that are near each other are one part")


def test_negatives():
    rows = [{"query": f"what is q{i}", "positive": f"p{i}", "part": part, "source": "s"} for i, part in enumerate("aabcefd")]
    rows[2]["negative"] = ["n0", "n1"]
    made = list(negatives.texts_and_rows(rows))
    ok([negatives.is_held_out(r) for r in rows] == [False] * 6 + [True], "held out: by the part, the same ones every time")
    ok([r["id"] for name, r in made if name == "train.texts"] == ["0", "1", "2", "2-0", "2-1", "3", "4", "5"]
       and [r["text"] for name, r in made if name == "dev.texts"] == ["p6"], "negatives: passages, judged ones too")
    ok([(name, r["pos_ids"], r["words"]) for name, r in made if "texts" not in name][1:3] ==
       [("train.both", ["1"], "what q1"), ("train.given", ["2"], "what q2")], "negatives: rows to mine, and judged ones")
    triple = {**made[0][1], "query": "q", "positive": "p", "source": "s", "negative": ["a", "b"], "pos_scores": [1.0],
              "neg_scores": [0.6, 0.1], "pos_bm25": [1.0], "neg_bm25": [0.0, 2.0]}
    ok(list(negatives.finished([triple, {**triple, "pos_scores": [0.1]}])) ==
       [{"query": "q", "positive": "p", "negative": ["a", "b"], "scores": [0.875, 0.45, 0.325], "dense": [1.0, 0.6, 0.1],
         "bm25": [1.0, 0.0, 2.0], "source": "s"}],
       "negatives: both teachers' scores, 0.75 dense + 0.25 bm25 of the row's most; an unlike pair is dropped")


if __name__ == "__main__":
    for test in (test_dictionary, test_man, test_pages, test_descriptions, test_prose, test_choice, test_given, test_sts,
                 test_negatives):
        test()
    sys.exit(done())
