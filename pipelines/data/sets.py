#!/usr/bin/env python3
"""Builds one set of the training data: pairs of a query and the passage that answers it, from unpacked Debian packages or
from a folder of public data sets.

usage: sets.py SET ROWS SOURCE OUT [TEST_SET]...

SET is a name of the table at the end, ROWS the most that it may have, SOURCE where it comes from: for debian and sections
apt's translations, then its packages, for man, dict, docs and science a folder with one unpacked package a folder, else
the file of the data set. OUT gets JSON lines {query, positive, negative?, source, part}, `part` being what must not be
divided between training and held-out rows. No row holds a text of a TEST_SET. `stsb-scores` writes {sentence1, sentence2, score, ...} instead.
"""
import glob, gzip, itertools, json, os, re, sys
import layouts, readers
from builders import Labelled, Scored
from leaks import Leaks
from lines import Reader
from negatives import is_held_out
from prose import (chance, count_words, cut, is_english, is_pair, is_prose, key, share, split_sentences,
                   squeeze)

MOST_WORDS = 90
# of one package: rows, and pages that are read for them
MOST_ROWS, MOST_PAGES = 1500, 150


def row(query, positive, source, part="", negative=()):
    made = {"query": squeeze(query), "positive": cut(squeeze(positive), MOST_WORDS), "source": source,
            "part": part or key(positive)}
    if negative:
        made["negative"] = [cut(squeeze(n), MOST_WORDS) for n in negative]
    return made


# ---- what Debian holds

# Bindings and fonts by the thousand, whose descriptions are one text with another name in it.
SERIES = re.compile(r"^(lib|node-|golang-|ruby-|rust-|r-cran-|r-bioc-|python\d?-|php-|fonts-|texlive-|elpa-|ocaml-)")
PART = re.compile(r"-(dev|dbg|dbgsym|doc|data|common|l10n|locale-?\w*)$")


def packages(source):
    """(section, synopsis, lines of the description), one package of each source package: the first that is not one of its
    parts."""
    seen, texts = set(), {}
    with open(source, encoding="utf-8", errors="replace") as f:
        for stanza in readers.read_stanzas(f):
            if "Description-en" in stanza:
                texts[stanza["Description-md5"]] = stanza["Description-en"]
                continue
            name = stanza["Package"]
            origin = stanza.get("Source", name).split(" ")[0]
            synopsis, *lines = texts.get(stanza.get("Description-md5"), [""])
            if (not lines or origin in seen or PART.search(name) or "transitional" in synopsis
                    or SERIES.match(name) and chance(name) > 0.35):
                continue
            seen.add(origin)
            yield stanza.get("Section", ""), re.sub(r"\s*\([^)]*\)$", "", synopsis), lines


def debian(source):
    """Synopsis -> description."""
    for _, synopsis, lines in packages(source):
        yield row(synopsis, " ".join(readers.description_paragraphs(lines)), "debian")


# Sections by what a package is, not by what it is about.
FORMS = frozenset("libs libdevel oldlibs debug doc metapackages tasks introspection misc".split())


def sections(source):
    """Synopsis -> synopsis of the same section; negatives of others."""
    texts = []
    for section, synopsis, lines in packages(source):
        if section and section not in FORMS and count_words(squeeze(synopsis)) >= 3 and is_english(synopsis):
            texts.append((squeeze(synopsis), section, key(" ".join(readers.description_paragraphs(lines)))))
    return labelled_rows(texts, "sections")


def files(folder):
    """(file, its text) of one package in an order of chance, so that the first of them stand for all; no page of a book's
    size."""
    paths = glob.glob(f"{glob.escape(folder)}/**/*.*", recursive=True)
    for path in sorted(paths, key=lambda path: chance(os.path.relpath(path, folder))):
        if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) < 1 << 20:
            opened = gzip.open if path.endswith(".gz") else open
            with opened(path, "rt", encoding="utf-8", errors="replace") as f:
                yield path, f.read()


def man(folder):
    """What NAME says -> the beginning of DESCRIPTION."""
    for package in sorted(os.listdir(folder)):
        for path, text in files(f"{folder}/{package}"):
            sections = readers.read_man(text)
            names, _, summary = " ".join(sections.get("NAME", [])).partition(" - ")
            described = next((" ".join(p) for title, p in sections.items() if title.startswith("DESCRIPTION")), "")
            if is_prose(described[:600]):
                yield row(summary, described, f"man/{package}", os.path.basename(path).split(".")[0])


def dictionary(folder):
    """Headword -> gloss. Every gloss once, with the first headword or with its set of synonyms."""
    senses = {"wn": readers.wordnet_senses, "gcide": readers.gcide_senses}
    for index in sorted(glob.glob(f"{glob.escape(folder)}/**/*.index", recursive=True)):
        name = os.path.basename(index)[:-len(".index")]
        for first, body in readers.read_dictionary(index, index[:-len("index")] + "dict.dz"):
            for word, gloss in senses.get(name, readers.plain_senses)(first, body):
                if len(word) > 3 and word[0].isalpha() and not re.search(r"obscene|offensive|slur\b|vulgar", gloss):
                    yield row(word, gloss, f"dict/{name}", key(word))


BARE_HEADING = re.compile(r"^(?:introduction|overview|description|notes?|see also|examples?|references?|summary|returns?|usage|"
                          r"synopsis|background|parameters|attributes|methods|syntax|details|purpose|abstract|contents|index)$")


def heading_query(title, heading):
    """A heading that says something by itself, else together with the title of its page; "" when neither does."""
    heading = re.sub(r"^[\d.A-Z]*\d[\d.]*\s+|^(?:Chapter|Appendix) \w+[.:]?\s+", "", heading)
    if count_words(heading) < 3 or BARE_HEADING.match(heading.lower()):
        title = re.split(r" [-|\u2013\u2014:] |\u2014| :: ", title)[0]
        title = re.sub(r"^[\d.]*\d[\d.]*\s+", "", title)
        heading = title if BARE_HEADING.match(heading.lower()) or heading in title else f"{title}: {heading}"
    return heading


def page_rows(title, sections, package):
    """Heading -> its section; a sentence -> the rest of its paragraph: half of them the first, half any other."""
    for heading, paragraphs in sections:
        prose = [p for p in paragraphs if count_words(p) >= 8 and is_prose(p)]
        if not prose:
            continue
        part = key(prose[0])
        query = heading_query(title, heading)
        if query and is_prose(query):
            yield row(query, " ".join(prose[:3]), f"{package}/section", part)
        for paragraph in prose:
            sentences = split_sentences(paragraph)
            if len(sentences) >= 3 and count_words(paragraph) >= 40:
                draw = chance(paragraph)
                taken = 0 if draw < 0.5 else 1 + int((draw - 0.5) * 2 * (len(sentences) - 1))
                rest = " ".join(sentences[:taken] + sentences[taken + 1:])
                if count_words(sentences[taken]) >= 6:
                    yield row(sentences[taken], rest, f"{package}/paragraph", part)


def pages(folder):
    """The rows of every package's pages, until they are more than its share can be."""
    for package in sorted(os.listdir(folder)):
        given = 0
        for _, text in itertools.islice(files(f"{folder}/{package}"), MOST_PAGES):
            title, sections = readers.read_html(text)
            rows = list(page_rows(title, sections, package))
            yield from rows
            given += len(rows)
            if given >= MOST_ROWS:
                break


# ---- public data sets

def read_tsv(path, columns):
    with open(path, encoding="utf-8") as f:
        for line in f:
            fields = line.rstrip("\n").split("\t")
            if len(fields) == columns:
                yield fields


def wikisplit(path):
    """A sentence -> its rewrite as two."""
    for sentence, rewrite in read_tsv(path, 2):
        yield row(sentence, rewrite, "wikisplit", key(sentence))


def trecqa(path):
    """A question -> each sentence that answers it, with the sentences that were judged not to."""
    with open(path, encoding="utf-8") as f:
        for line in f:
            record = json.loads(line)
            wrong = sorted(set(record["negative"]), key=lambda text: chance(record["query"], text))
            for positive in dict.fromkeys(record["positive"]):
                yield row(record["query"], positive, "trecqa", key(record["query"]), wrong[:12])


def msrp(path):
    """Paraphrases, the pairs of label 1."""
    for label, first, second in read_tsv(path, 3):
        if label == "1":
            yield row(first, second, "msrp", key(first))


def stsb(path):
    """Pairs with a score of at least 4 of 5."""
    for score, first, second in read_tsv(path, 3):
        if float(score) >= 4:
            yield row(first, second, "stsb", key(first))


def stsb_both(path):
    """Pairs with a score of at least 4, both ways. What hangs together by scores above 2.5 is one part, so that none of it is
    a negative."""
    made, part = Scored(((float(s), a, b) for s, a, b in read_tsv(path, 3)), 4, 2.5), {}
    for first in made.texts.values():
        waiting = [] if first in part else [first]
        while waiting:
            text = waiting.pop()
            part[text] = first.name
            waiting += made.near.get(text, set()) - part.keys()
    for query, answers in made.answers.items():
        for answer in sorted(answers, key=lambda text: text.name):
            yield row(query.text, answer.text, "stsb-both", part[query])


def stsb_scores(path):
    """Every pair with its score, in [0, 1], for losses over scores."""
    for score, first, second in read_tsv(path, 3):
        yield {"sentence1": first, "sentence2": second, "score": round(float(score) / 5, 4), "source": "stsb", "part": key(first)}


def labelled_rows(texts, source):
    """Rows of (text, label, part), by example. Held-out texts are with one another alone."""
    parts = {}
    for text, _, part in texts:
        parts.setdefault(layouts.same(text), part)
    for held in (False, True):
        own = [(text, [label]) for text, label, _ in texts if is_held_out({"part": parts[layouts.same(text)]}) == held]
        for r in Labelled(own, 0, 7).rows("example", None):
            label = r["class"] if isinstance(r["class"], str) else " ".join(r["class"])
            yield row(r["query"], r["pos"][0], f"{source}/{label}", parts[layouts.same(r["query"])], r.get("neg", ()))


def banking77(path):
    """A bank customer's question -> another one of the same intent; negatives of other intents."""
    found = Reader().records([path], lambda line: layouts.labelled(line, "text", "label"))
    return labelled_rows([(squeeze(text), label, key(text)) for _, _, of in found for text, (label,) in of], "banking77")


SETS = {"debian": debian, "man": man, "dict": dictionary, "docs": pages, "science": pages, "wikisplit": wikisplit,
        "trecqa": trecqa, "msrp": msrp, "stsb": stsb, "stsb-both": stsb_both, "stsb-scores": stsb_scores,
        "banking77": banking77, "sections": sections}
# words of the shortest query; headwords are single words
SHORTEST = {"dict": 1}


def even(rows, most):
    """At most `most`: as many of every source as fit when shared evenly."""
    sources = {}
    for r in rows:
        sources.setdefault(r["source"], []).append(r)
    kept = share(sources.values(), most, lambda r: chance(r["query"], r["positive"]))
    return sorted(kept, key=lambda r: chance(r["positive"]))


def unlike(rows, shortest):
    """Clean rows, no query and no positive twice."""
    queries, positives = set(), set()
    for r in rows:
        query, positive = key(r["query"]), key(r["positive"])
        beginning = " ".join(positive.split(" ")[:8])
        if not is_pair(r["query"], r["positive"], shortest) or beginning in positives:
            continue
        if query in queries and "negative" not in r:
            continue
        queries.add(query)
        positives.add(beginning)
        yield r


def choose(name, rows, most):
    if name == "stsb-scores":
        return rows
    return even(rows if name in ("stsb-both", "banking77", "sections") else unlike(rows, SHORTEST.get(name, 3)), most)


def main(name, most, source, out, *test_sets):
    rows = list(SETS[name](source))
    leaks = Leaks(test_sets)
    clean = [r for r in rows if r not in leaks]
    chosen = choose(name, clean, int(most))
    with open(out + ".new", "w", encoding="utf-8") as f:
        for r in chosen:
            f.write(json.dumps(r, ensure_ascii=False) + "\n")
    os.rename(out + ".new", out)
    print(f"{name}: {len(chosen)} of {len(rows)} rows, {len(rows) - len(clean)} held a text of a test set", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) < 5 or sys.argv[1] not in SETS:
        sys.exit(__doc__)
    main(*sys.argv[1:])
