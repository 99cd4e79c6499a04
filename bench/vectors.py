#!/usr/bin/env python3
"""Random unit vectors for the search benchmark.   usage: vectors.py FOLDER ROWS DIMS     needs: numpy, msgpack, xxhash

Writes rows.npy and queries.npy for the peer, rows.vp, queries-1.vp and queries-256.vp for vecpipe.
"""
import os, sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "examples"))
import numpy as np
import stream

folder, rows, dims = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(1)


def unit(n):
    x = rng.standard_normal((n, dims), dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def save(name, vectors):
    np.save(os.path.join(folder, name.split("-")[0] + ".npy"), vectors)
    batches = [
        {"id": [str(i) for i in range(at, min(at + 4096, len(vectors)))], "emb": vectors[at : at + 4096]}
        for at in range(0, len(vectors), 4096)
    ]
    with open(os.path.join(folder, name + ".vp"), "wb") as f:
        stream.write(f, batches, {"rows": len(vectors)})


save("rows", unit(rows))
queries = unit(256)
save("queries-1", queries[:1])
save("queries-256", queries)
