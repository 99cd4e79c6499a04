#!/usr/bin/env python3
"""Consecutive passages from plain text, as LLaRA is pre-trained on them: JSONL with `input`, a passage, and
`output_predict`, the one after it in the same document.

    passages.py [--words N] [--remove-stop-words] [FILE]...

A file is plain text, whose documents are parted by empty lines, or JSONL with `text`; without FILE standard input is
read. A document's passages have N words [500], the last two share what is left; one of fewer than 2 N words makes none.
--remove-stop-words leaves English function words and punctuation out of what a passage must predict.
"""
import argparse, json, re, sys

# NLTK's English stop words
STOP = frozenset("""i me my myself we our ours ourselves you you're you've you'll you'd your yours yourself yourselves he
him his himself she she's her hers herself it it's its itself they them their theirs themselves what which who whom this
that that'll these those am is are was were be been being have has had having do does did doing a an the and but if or
because as until while of at by for with about against between into through during before after above below to from up
down in out on off over under again further then once here there when where why how all any both each few more most other
some such no nor not only own same so than too very s t can will just don don't should should've now d ll m o re ve y ain
aren aren't couldn couldn't didn didn't doesn doesn't hadn hadn't hasn hasn't haven haven't isn isn't ma mightn mightn't
mustn mustn't needn needn't shan shan't shouldn shouldn't wasn wasn't weren weren't won won't wouldn
wouldn't""".split()) | set("!,.?")


def fail(status, why):
    print(f"passages.py: {why}", file=sys.stderr)
    sys.exit(status)


def without_stop_words(text):
    return " ".join(word for word in re.sub(r"[\W_]+", " ", text).split() if word.casefold() not in STOP)


def documents(file, name):
    """The words of one document after the other."""
    words = []
    for number, line in enumerate(file, 1):
        if line.lstrip().startswith("{"):
            try: yield json.loads(line)["text"].split()
            except (ValueError, KeyError, AttributeError): fail(3, f"{name}:{number}: no JSON object with 'text'")
        elif line.strip():
            words += line.split()
        elif words:
            yield words
            words = []
    if words: yield words


def passages(words, n):
    """Runs of n words; the last two share what is left, half and half."""
    count = len(words) // n
    if count < 2: return []
    last = (count - 2) * n
    cuts = [*range(0, last, n), last, (last + len(words)) // 2, len(words)]
    return [" ".join(words[a:b]) for a, b in zip(cuts, cuts[1:])]


def main():
    parser = argparse.ArgumentParser(prog="passages.py", usage="passages.py [--words N] [--remove-stop-words] [FILE]...",
                                     description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=500, metavar="N")
    parser.add_argument("--remove-stop-words", action="store_true")
    parser.add_argument("file", nargs="*", metavar="FILE")
    args = parser.parse_args()
    if args.words < 2: parser.error("--words: at least 2")
    for name in args.file or ["-"]:
        try: file = sys.stdin if name == "-" else open(name, encoding="utf-8")
        except OSError as why: fail(4, f"cannot open '{name}': {why.strerror}")
        for words in documents(file, "standard input" if name == "-" else name):
            parts = passages(words, args.words)
            for this, after in zip(parts, parts[1:]):
                row = {"input": this, "output_predict": after}
                if args.remove_stop_words:
                    row = {"input": this, "output_summarize": without_stop_words(this),
                           "output_predict": without_stop_words(after)}
                print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main()
