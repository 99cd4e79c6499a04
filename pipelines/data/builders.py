"""Training rows out of labelled texts, scored pairs and running text. Every draw is a hash of the seed and of the text it is
for, over the texts in the order of their names: the order of the input changes nothing.

A row: {"id", "query", "pos" [], "neg" [], "pos_ids" [], "neg_ids" [], ...}. A text is a string or [instruction, text]."""
import itertools, re
from layouts import digest, same
from prose import chance, share, split_sentences, squeeze


class Text:
    """A text with the labels that it has anywhere."""
    instruction = ""

    def __init__(self, text, labels=()):
        self.text, self.labels, self.name = text, set(labels), digest(text)


def make_row(query, positives, negatives=(), **more):
    """Of Texts or Passages; more: other members."""
    row = {"id": digest(query.text, *(p.text for p in positives)), "query": query.text}
    for what, texts in (("pos", positives), ("neg", negatives)):
        if texts:
            row[what] = [[t.instruction, t.text] if t.instruction else t.text for t in texts]
            row[f"{what}_ids"] = [t.name for t in texts]
    return row | more


def convert(example):
    """The row of an example of any layout, without given negatives that are the query, a positive or one another."""
    more, positives, scores = {}, len(example.positives), example.scores
    seen = {same(p.text) for p in (example.query, *example.positives, *example.known)}
    kept = [k for k, p in enumerate(example.negatives) if not (same(p.text) in seen or seen.add(same(p.text)))]
    if example.name:
        more["id"] = example.name
    if example.query.instruction:
        more["instruction"] = example.query.instruction
    if scores:
        more |= {"pos_scores": scores[:positives], "neg_scores": [scores[positives + k] for k in kept]}
    return make_row(example.query, example.positives, [example.negatives[k] for k in kept], **more)


def instruct(row, instruction, symmetric):
    """The row with an instruction for its query, and for its passages if symmetric."""
    for what in ("pos", "neg") if symmetric else ():
        if what in row:
            row[what] = [[instruction, text if isinstance(text, str) else text[1]] for text in row[what]]
    return row | {"instruction": instruction}


def draws(n, tries, *parts):
    """Numbers below n: `tries` of them by chance, then every one from the last on, so that what is there is found."""
    at = 0
    for k in range(tries):
        at = int(chance(*parts, str(k)) * n)
        yield at
    yield from ((at + k) % n for k in range(1, n))


# ---- texts with labels

def merge(items):
    """(text, labels) to Texts in the order of their names, each once, with the labels of all its occurrences."""
    found = {}
    for text, labels in items:
        made = found.setdefault(same(text), Text(text))
        made.text = min(made.text, text)
        made.labels.update(labels)
    return sorted(found.values(), key=lambda t: t.name)


class Labelled:
    """Rows of labelled texts. The positive is the text's label or another text that has it; negatives are other labels, or
    texts that share none."""

    def __init__(self, items, seed, negatives):
        items, spelled = [(text, list(labels)) for text, labels in items], {}
        for label in sorted(label for _, labels in items for label in labels):
            spelled.setdefault(same(label), label)  # one label, however it is written
        items = ((text, [spelled[same(label)] for label in labels]) for text, labels in items)
        self.texts, self.seed, self.negatives = merge(items), str(seed), negatives
        self.members, self.home = {}, {}
        for text in self.texts:
            labels = sorted(text.labels)
            self.home[text] = labels[int(chance(self.seed, text.name, "label") * len(labels))]
            for label in labels:
                self.members.setdefault(label, []).append(text)
        self.labels = {label: Text(label, [label]) for label in sorted(self.members)}

    def by_label(self, text):
        others = [label for label in self.labels if label not in text.labels]
        others.sort(key=lambda label: chance(self.seed, text.name, "negative", label))
        return self.labels[self.home[text]], [self.labels[label] for label in others[:self.negatives]]

    def by_example(self, text):
        """For a text that is not alone with its label."""
        mates = self.members[self.home[text]]
        drawn = (mates[k] for k in draws(len(mates), 2, self.seed, text.name, "positive"))
        positive = next(mate for mate in drawn if mate is not text)
        negatives = {}
        for k in draws(len(self.texts), 16 * self.negatives, self.seed, text.name, "negative"):
            if len(negatives) == self.negatives:
                break
            if not self.texts[k].labels & text.labels:
                negatives[self.texts[k]] = None
        return positive, list(negatives)

    def rows(self, by, most):
        """At most `most` rows, of every label as many as fit when shared evenly, in an order of chance; None: all."""
        groups, take = {label: [] for label in self.labels}, self.by_label if by == "label" else self.by_example
        for text in self.texts:
            if by == "label" or len(self.members[self.home[text]]) > 1:
                groups[self.home[text]].append(text)

        def rank(text):
            return chance(self.seed, text.name, "order")

        for text in sorted(share(groups.values(), len(self.texts) if most is None else most, rank), key=rank):
            positive, negatives = take(text)
            yield make_row(text, [positive], negatives, **class_of(text))

    def corpus(self, by):
        """What negatives may be mined from."""
        for text in self.labels.values() if by == "label" else self.texts:
            yield {"id": text.name, "text": text.text, **class_of(text)}


def class_of(text):
    labels = sorted(text.labels)
    return {"class": labels[0] if len(labels) == 1 else labels}


# ---- pairs with a score

class Scored:
    """Rows of scored pairs, both ways where the score is at least `least`. Negatives are left to be mined: what has a score
    above `related` with the query is none."""

    def __init__(self, pairs, least, related):
        self.texts, self.answers, self.near = {}, {}, {}
        for score, *pair in pairs:
            ends = [self.texts.setdefault(same(text), Text(text)) for text in pair]
            for end, text in zip(ends, pair):
                end.text = min(end.text, text)
            for query, text in (ends, ends[::-1]) if ends[0] is not ends[1] else ():
                if score >= least:
                    self.answers.setdefault(query, set()).add(text)
                if score > related or score >= least:
                    self.near.setdefault(query, set()).add(text)

    def rows(self):
        made = [make_row(query, [answer]) for query, answers in self.answers.items() for answer in answers]
        return sorted(made, key=lambda row: row["id"])

    def known(self):
        made = [make_row(query, sorted(near, key=lambda t: t.name)) for query, near in self.near.items()]
        return sorted(made, key=lambda row: row["id"])

    def corpus(self):
        for text in sorted(self.texts.values(), key=lambda t: t.name):
            yield {"id": text.name, "text": text.text}


# ---- running text

def documents(numbered_lines):
    """Documents of plain text: blank lines part them."""
    for blank, lines in itertools.groupby(numbered_lines, key=lambda line: not line[1].strip()):
        if not blank:
            yield " ".join(text for _, text in lines)


def passages(document, words):
    """Whole sentences up to `words` words; a longer sentence is cut between words. What is left at the end is a passage if
    it has a quarter of them."""
    taken = []
    for sentence in split_sentences(squeeze(document)):
        pieces = sentence.split(" ")
        for start in range(0, len(pieces), words):
            piece = pieces[start:start + words]
            if taken and len(taken) + len(piece) > words:
                yield " ".join(taken)
                taken = []
            taken += piece
    if 4 * len(taken) >= words:
        yield " ".join(taken)


# NLTK's English stop words, but those with an apostrophe, which parts words here
STOP_WORDS = frozenset("""i me my myself we our ours ourselves you your yours yourself yourselves he him his himself
she her hers herself it its itself they them their theirs themselves what which who whom this that these those am is
are was were be been being have has had having do does did doing a an the and but if or because as until while of at
by for with about against between into through during before after above below to from up down in out on off over
under again further then once here there when where why how all any both each few more most other some such no nor not
only own same so than too very s t can will just don should now d ll m o re ve y ain aren couldn didn doesn hadn hasn
haven isn ma mightn mustn needn shan shouldn wasn weren won wouldn""".split())


def without_stop_words(text):
    """The text's other words, as LLaRA's authors leave them for slots to predict."""
    return " ".join(word for word in re.sub(r"[\W_]+", " ", text).split() if word.casefold() not in STOP_WORDS)


def consecutive(document, words, leaks, remove_stop_words=False):
    """A row for every passage with the next one of its document. A passage of which a sentence is in `leaks` has no row and is
    not the next one of any."""
    left = without_stop_words if remove_stop_words else str

    def texts(pair):
        return [pair, *map(split_sentences, pair)]

    for now, after in leaks.clean(itertools.pairwise(passages(document, words)), texts):
        yield {"input": now, "output_summarize": left(now), "output_predict": left(after)}
