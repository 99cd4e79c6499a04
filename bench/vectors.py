#!/usr/bin/env python3
"""Random unit vectors for the search benchmark.   usage: vectors.py FOLDER ROWS DIMS     needs: numpy, msgpack, xxhash

Writes rows.npy and queries.npy for the peer, rows.vp, queries-1.vp and queries-256.vp for vecpipe; mine-10000.vp,
mine-5000.vp and mine-100.vp for mining, in frames of 4096 rows: queries near a row that is their positive. Rows have texts of
40 words, these queries the first 8 of their positive's.
"""
import json, os, sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "examples"))
import numpy as np
import stream

folder, rows, dims = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(1)


def unit(n):
    x = rng.standard_normal((n, dims), dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def save(name, vectors, **columns):
    np.save(os.path.join(folder, name.split("-")[0] + ".npy"), vectors)
    columns = {"id": [str(i) for i in range(len(vectors))], "emb": vectors, **columns}
    batches = [{k: v[at : at + 4096] for k, v in columns.items()} for at in range(0, len(vectors), 4096)]
    with open(os.path.join(folder, name + ".vp"), "wb") as f:
        stream.write(f, batches, {"rows": len(vectors)})


# words as they are in texts: a few are everywhere, most are rare
words = (20000 * rng.random((rows, 40)) ** 3).astype(int)
texts = [" ".join(f"w{w}" for w in row) for row in words]
vectors = unit(rows)
save("rows", vectors, text=texts)
positive = rng.integers(0, rows, 10000)
near = vectors[positive] + unit(10000)
near /= np.linalg.norm(near, axis=1, keepdims=True)
for n in (10000, 5000, 100):
    save(f"mine-{n}", near[:n], text=[" ".join(texts[p].split()[:8]) for p in positive[:n]],
         meta=[json.dumps({"pos_ids": [str(p)]}) for p in positive[:n]])
queries = unit(256)
save("queries-1", queries[:1])
save("queries-256", queries)
