"""What counts as clean English prose, and how it is cut: shared by every set of the training data. Nothing here knows where
a text came from."""
import hashlib, re

SPACE = re.compile(r"\s+")
WORD = re.compile(r"[a-z0-9]+")
# A full stop ends a sentence before a capital, a digit or a quotation mark, but not after an initial or an abbreviation.
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]?\s+(?=[\"'(\[]?[A-Z0-9])")
ABBREVIATION = re.compile(r"(?:\b[A-Z]|\b(?:e\.g|i\.e|etc|cf|vs|viz|resp|fig|figs|eq|eqs|no|vol|dr|mr|mrs|st|al|ca|ref|sec))\.$",
                          re.IGNORECASE)
ENGLISH = frozenset("a an the of to in on for and or is are be by with as that this it from at which can not if when "
                    "was were has have you your used use its but than then into these such may will".split())
ODD = re.compile(r"[^\w\s.,;:'\"()/?!%-]|_")


def squeeze(text):
    """One line, single blanks."""
    return SPACE.sub(" ", text).strip()


def key(text):
    """Equal for texts that differ only in case, punctuation and blanks."""
    return " ".join(WORD.findall(text.lower()))


def chance(*parts):
    """A number in [0, 1) that only depends on the parts: order and splits are the same on every machine."""
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def count_words(text):
    return text.count(" ") + 1 if text else 0


def split_sentences(text):
    sentences = []
    for part in SENTENCE_END.split(text):
        if sentences and ABBREVIATION.search(sentences[-1]):
            sentences[-1] += " " + part
        else:
            sentences.append(part)
    return sentences


def cut(text, most):
    """The first whole sentences of at most `most` words; a longer first sentence is cut between words."""
    if count_words(text) <= most:
        return text
    kept = []
    for sentence in split_sentences(text):
        if count_words(" ".join([*kept, sentence])) > most:
            break
        kept.append(sentence)
    return " ".join(kept) or " ".join(text.split(" ")[:most])


def is_english(text):
    """Letters that are ASCII, and for longer texts one function word in ten."""
    letters = [c for c in text if c.isalpha()]
    if not letters or sum(c.isascii() for c in letters) < 0.97 * len(letters):
        return False
    words = WORD.findall(text.lower())
    return len(words) < 8 or 10 * sum(w in ENGLISH for w in words) >= len(words)


def is_prose(text):
    """English with hardly a sign that sentences do not have: code, formulas and tables fail."""
    return is_english(text) and len(ODD.findall(text)) <= 0.015 * len(text) and not re.search(r"(?:[^\w\s] ?){5}", text)


def is_pair(query, positive, shortest=3):
    """Lengths in words, language, and a positive that is not just its query again."""
    if not shortest <= count_words(query) <= 64 or not 5 <= count_words(positive) <= 110:
        return False
    asked, answer = key(query), key(positive)
    return bool(asked) and not answer.startswith(asked) and asked != answer and is_english(query) and is_english(positive)


def share(groups, most, rank):
    """At most `most` of all groups' members, the first of each by `rank`: as many of every group as fit when shared evenly."""
    kept, groups = [], sorted(groups, key=len)
    for left, members in enumerate(groups):
        kept += sorted(members, key=rank)[:(most - len(kept)) // (len(groups) - left)]
    return kept
