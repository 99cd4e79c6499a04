"""What stands in test sets, so that nothing of it is trained on."""
import re
from lines import Reader, parse

IDEOGRAPHS = r"\u3040-\u30ff\u3400-\u9fff"
IDEOGRAPH = re.compile(f"[{IDEOGRAPHS}]")
WORD = re.compile(rf"[{IDEOGRAPHS}]|[^\W_{IDEOGRAPHS}]+")
LEAST_WORDS = 4


def words_of(text):
    """The same for texts that differ only in case, punctuation and blanks."""
    return tuple(WORD.findall(text.lower()))


def is_long(text):
    """Shorter ones may stand anywhere. An ideograph counts as a word."""
    return len(text.split()) + len(IDEOGRAPH.findall(text)) >= LEAST_WORDS


def texts_of(value):
    """Every text of a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts_of(part)


class Leaks:
    """The texts of at least four words of test files: JSON lines, or lines with tabs between the texts."""

    def __init__(self, paths):
        self.texts, self.dropped = set(), 0
        for path in paths:
            take = parse if path.endswith(".jsonl") else lambda line: line.split("\t")
            for _, _, texts in Reader().records([path], lambda line: list(texts_of(take(line)))):
                self.texts.update(words_of(text) for text in texts if is_long(text))
        self.texts.discard(())

    def __contains__(self, value):
        """Whether a text of this JSON value is one of theirs."""
        return any(words_of(text) in self.texts for text in texts_of(value))

    def clean(self, values, texts=lambda value: value):
        """Those values whose texts are none of theirs; the others are counted."""
        for value in values:
            if texts(value) in self:
                self.dropped += 1
            else:
                yield value
