#!/usr/bin/env python3
"""Keep masks of dropout, computed from the definition alone: tests/golden/dropout.txt must be what this says, and the
unit test test_ops_drop says the same of the kernels. With --print, prints the file.

environment: REPO (as tests/run sets it)
"""
import os, struct, sys
from tap import done, ok

WORD = 0xFFFFFFFF


def philox(counter, key):
    """Philox4x32-10 (Salmon et al., SC 2011); key: 64 bits, its low word first."""
    a, b, c, d = counter
    k0, k1 = key & WORD, key >> 32
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right >> 32) ^ b ^ k0, right & WORD, (left >> 32) ^ d ^ k1, left & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return a, b, c, d


def keep(counter, key, p):
    """Bit i: entry i of 8 is kept. Entries are 16-bit lanes in little-endian order, kept from round(65536 p) on."""
    lanes = struct.unpack("<8H", struct.pack("<4I", *philox(counter, key)))
    threshold = int(65536 * struct.unpack("<f", struct.pack("<f", p))[0] + 0.5)
    return sum((lane >= threshold) << i for i, lane in enumerate(lanes))


def cases():
    """64 counters: of attention (query, key), of rows of tokens 576 wide, and any."""
    state = 1
    for i in range(64):
        words = []
        for _ in range(6):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            words.append(state >> 32)
        if i % 3 == 0:
            words[0] = (i * 7 << 16) | i
            words[3] = i % 30 << 20 | 0 << 14 | i % 9
        elif i % 3 == 1:
            words[0] = i * 576 + 5 >> 3
            words[3] = i % 30 << 20 | 2 + i % 4 << 14
        yield words[:4], words[5] << 32 | words[4], (0.1, 0.05, 0.3, 0.5, 0.0, 0.9, 1e-5, 0.123)[i % 8]


def file_text():
    lines = ["# keep masks of dropout: counter (4 words), key, p, bits of 8 entries; hexadecimal but p. tests/py/test_dropout.py"]
    for counter, key, p in cases():
        lines.append(" ".join(f"{w:08x}" for w in counter) + f" {key:016x} {p:g} {keep(counter, key, p):02x}")
    return "\n".join(lines) + "\n"


def main():
    if sys.argv[1:] == ["--print"]:
        sys.stdout.write(file_text())
        return 0
    known = [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((WORD,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), 0x299F31D0A4093822, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ]
    for counter, key, words in known:
        ok(philox(counter, key) == words, f"known answer {words[0]:08x}")
    with open(os.path.join(os.environ["REPO"], "tests/golden/dropout.txt")) as f:
        recorded = f.read()
    ok(recorded == file_text(), "the recorded masks are those of the definition")
    return done()


sys.exit(main())
