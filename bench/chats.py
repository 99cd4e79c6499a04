#!/usr/bin/env python3
"""Conversations and preferences out of the rows that scripts/training-data made, for bench/grit: chats.py TRAINING OUT
writes OUT/{train,test}-{pairs,chats,answers}.jsonl. One row in twenty is held out; an answer that nobody wants is that of
another row of the same set."""
import json, os, sys

ASKED = {
    "dict": "What does \"{}\" mean?",
    "man": "Describe the manual page of something that does this: {}",
    "debian": "Describe a package: {}",
    "science": "Write the section \"{}\" of a scientific text.",
    "docs": "Write the section \"{}\" of a manual.",
    "wikisplit": "Say this in two shorter sentences: {}",
    "msrp": "Say this in other words: {}",
    "trecqa": "{}",
}
INSTRUCTION = {
    "wikisplit": "Retrieve sentences that say the same",
    "msrp": "Retrieve a sentence that says the same",
    "dict": "Given a word, retrieve its definition",
    "trecqa": "Given a question, retrieve a sentence that answers it",
}
ROWS = 1500  # of a set at most, so that none outweighs the others


def main(training, out):
    os.makedirs(out, exist_ok=True)
    files = {}
    for name, asked in ASKED.items():
        with open(os.path.join(training, name + ".jsonl"), encoding="utf-8") as lines:
            rows = [json.loads(line) for line, _ in zip(lines, range(ROWS))]
        for i, row in enumerate(rows):
            part = "test" if i % 20 == 19 else "train"
            told = INSTRUCTION.get(name, "Given a heading or summary, retrieve the text that it stands above")
            prompt, good, bad = asked.format(row["query"]), row["positive"], rows[(i + 20) % len(rows)]["positive"]
            put(files, out, part, "pairs", {"query": [told, row["query"]], "pos": [["", good]],
                                            "neg": [["", text] for text in row["negative"]]})
            put(files, out, part, "chats", {"messages": [{"role": "user", "content": prompt},
                                                         {"role": "assistant", "content": good}]})
            for text, label in ((good, True), (bad, False)):
                put(files, out, part, "answers", {"prompt": prompt, "completion": text, "label": label})
    for file in files.values():
        file.close()


def put(files, out, part, kind, row):
    name = f"{part}-{kind}.jsonl"
    if name not in files:
        files[name] = open(os.path.join(out, name), "w", encoding="utf-8")
    files[name].write(json.dumps(row, ensure_ascii=False) + "\n")


main(*sys.argv[1:])
