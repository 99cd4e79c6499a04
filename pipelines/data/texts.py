#!/usr/bin/env python3
"""Plain text of finished sets for masked prediction and SimCSE, in an order of chance, each line once.

usage: texts.py paragraphs|sentences [--without HELD_OUT.jsonl]... FILE... >TEXT

A FILE is a training set (.jsonl), of which the positives are taken, or text, a line each. `sentences` cuts them into
sentences of 5 to 40 words. What lies in a HELD_OUT file is left out.
"""
import json, sys
from prose import chance, count_words, is_prose, key, split_sentences, squeeze


def lines(path):
    with open(path, encoding="utf-8") as f:
        for line in f:
            yield json.loads(line)["positive"] if path.endswith(".jsonl") else squeeze(line)


def main(kind, *arguments):
    words = iter(arguments)
    texts, held = {}, set()
    for word in words:
        if word == "--without":
            held.update(map(key, lines(next(words))))
            continue
        for line in lines(word):
            for text in split_sentences(line) if kind == "sentences" else [line]:
                if 5 <= count_words(text) <= (40 if kind == "sentences" else 120) and is_prose(text):
                    texts.setdefault(key(text), text)
    for name in sorted(texts.keys() - held, key=chance):
        print(texts[name])


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("paragraphs", "sentences"):
        sys.exit(__doc__)
    main(*sys.argv[1:])
