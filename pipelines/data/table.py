#!/usr/bin/env python3
"""A table of finished sets: rows, mean words of a query and of a positive, mean number of negatives.

usage: table.py SET.jsonl...
"""
import json, os, sys


def mean(numbers):
    return sum(numbers) / len(numbers) if numbers else 0.0


def main(paths):
    print(f"{'set':<20} {'rows':>6} {'query':>6} {'words':>6} {'negatives':>9}")
    for path in paths:
        with open(path, encoding="utf-8") as f:
            rows = [json.loads(line) for line in f]
        first, second = ("sentence1", "sentence2") if rows and "sentence1" in rows[0] else ("query", "positive")
        print(f"{os.path.basename(path)[:-6]:<20} {len(rows):>6} {mean([len(r[first].split()) for r in rows]):>6.1f} "
              f"{mean([len(r[second].split()) for r in rows]):>6.1f} {mean([len(r.get('negative', [])) for r in rows]):>9.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
