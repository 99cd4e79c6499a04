#!/usr/bin/env python3
"""Synthetic streams for the index's tests: what `tok | fwd | pool` would give, without a model. Texts decide vectors.

usage: synthetic.py [--dims D] [--dtype F32|BF16|I8] [--batch N] [--space S] [--no-end] [--delay SECONDS] [--text]
                    [--chunks N] [--kv L,G,D] < corpus.jsonl > stream
Reads the JSONL of `knn missing` (its _vp lines are carried on as `source`) or plain records, batch by batch.
"""
import argparse, json, struct, sys, time
import msgpack, numpy as np, xxhash


def frame(payload):
    body = msgpack.packb(payload, use_bin_type=True)
    return msgpack.packb(msgpack.ExtType(1, xxhash.xxh3_64_digest(body)[::-1] + body))


def tensor(a, dtype=None):
    names = {"float32": "F32", "int8": "I8", "uint8": "U8", "int32": "I32", "int64": "I64", "uint16": "BF16"}
    return {"dtype": dtype or names[a.dtype.name], "shape": list(a.shape), "data": a.tobytes()}


def text_of(record):
    return (record["title"] + " " if "title" in record else "") + record["text"]


def hash_of(record):
    parts = [record.get("title", "").encode(), record["text"].encode()]
    return xxhash.xxh3_128_digest(b"".join(struct.pack("<Q", len(p)) + p for p in parts))


def vector(text, dims, dtype):
    rng = np.random.default_rng(xxhash.xxh3_64_intdigest(text.encode()))
    v = rng.standard_normal(dims).astype(np.float32)
    if not text:
        v[:] = 0
    if dtype == "I8":
        return np.clip(np.round(v * 40), -127, 127).astype(np.int8)
    v /= max(float(np.linalg.norm(v)), 1e-12)
    return (v.view(np.uint32) >> 16).astype(np.uint16) if dtype == "BF16" else v


def keys_values(text, shape):
    """k and v [L, n, G, d] of a text of n words, as the bits of BF16."""
    layers, groups, width = shape
    rng = np.random.default_rng(xxhash.xxh3_64_intdigest(b"kv" + text.encode()))
    x = rng.standard_normal((2, layers, len(text.split()), groups, width)).astype(np.float32)
    return (x.view(np.uint32) >> 16).astype(np.uint16)


def header(dims, dtype, space="synthetic", source=None):
    columns = {"id": ["VALUES", ["B"]], "emb": [dtype, ["B", dims]], "hash": ["U8", ["B", 16]], "row": ["I64", ["B"]]}
    h = {"vecpipe": 1, "kind": "header", "model": {"path": "synthetic", "fingerprint": "0" * 32},
         "encoder": {"space": space, "input": "plain"} if space else {}, "columns": columns, "history": ["synthetic"]}
    if source:
        h["source"] = source
    return h


def meta_of(record):
    rest = {k: v for k, v in record.items() if k not in ("id", "text")}
    return json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False) if rest else None


def rows_of(records, chunks):
    """(record, id, parent, text) a row; a record longer than one word is cut into `chunks` rows when that is asked."""
    for r in records:
        words = text_of(r).split()
        if chunks < 2 or len(words) < chunks:
            yield r, str(r["id"]), None, text_of(r), 0
            continue
        for i in range(chunks):
            yield r, f"{r['id']}#{i}", str(r["id"]), " ".join(words[i::chunks]), chunks


def batch(rows, seq, first, dims, dtype, text=False, chunks=1, source=None, kv=None):
    """A batch of rows_of(...)."""
    hashes = b"".join(hash_of(x[0]) for x in rows)
    columns = {
        "id": [x[1] for x in rows],
        "emb": tensor(np.stack([vector(x[3], dims, dtype) for x in rows]), dtype),
        "hash": tensor(np.frombuffer(hashes, np.uint8).reshape(len(rows), 16)),
        "row": tensor(np.arange(first, first + len(rows), dtype=np.int64)),
        "meta": [meta_of(x[0]) for x in rows],
    }
    if chunks > 1:
        columns["parent"] = [x[2] for x in rows]
        columns["chunks"] = tensor(np.array([x[4] for x in rows], np.int32))
    if text:
        columns["text"] = [x[3] for x in rows]
    if kv:
        both = [keys_values(x[3], kv) for x in rows]
        columns["cu"] = tensor(np.cumsum([0] + [x.shape[2] for x in both], dtype=np.int32))
        for i, name in enumerate("kv"):
            columns[name] = tensor(np.concatenate([x[i] for x in both], axis=1))
    b = {"kind": "batch", "seq": seq, "columns": columns}
    if source:
        b["source"] = source
    return b


def stream(records, size=16, dims=8, dtype="F32", space="synthetic", text=False, chunks=1, source=None,
           kv=None):
    """The frames of a complete stream. Chunks of a record may lie in two batches."""
    yield frame(header(dims, dtype, space))
    rows, seq, first = [], 0, 0
    for row in rows_of(records, chunks):
        rows.append(row)
        if len(rows) == size:
            yield frame(batch(rows, seq, first, dims, dtype, text, chunks, source() if callable(source) else source, kv))
            rows, seq, first = [], seq + 1, first + size
    if rows:
        yield frame(batch(rows, seq, first, dims, dtype, text, chunks, source() if callable(source) else source, kv))
        seq, first = seq + 1, first + len(rows)
    yield frame(end(seq, first))


def end(batches, rows):
    return {"kind": "end", "batches": batches, "rows": rows, "tokens": rows, "truncated": 0, "skipped": 0, "empty": 0}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--dims", type=int, default=8)
    p.add_argument("--dtype", default="F32")
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--space", default="synthetic")
    p.add_argument("--chunks", type=int, default=1)
    p.add_argument("--kv", type=lambda s: tuple(map(int, s.split(","))))
    p.add_argument("--delay", type=float, default=0)
    p.add_argument("--text", action="store_true")
    p.add_argument("--no-end", action="store_true")
    o = p.parse_args()
    source, state = None, {"promised": False, "ended": False}

    def records():
        nonlocal source
        for line in sys.stdin.buffer:
            record = json.loads(line)
            if "_vp" not in record:
                yield record
                continue
            state.update(promised=True, ended=record["_vp"].get("end", False))
            if "index" in record["_vp"]:
                source = {k: record["_vp"][k] for k in ("index", "generation")}

    held = None  # the last frame is `end`, and only for who has seen the whole input
    for f in stream(records(), o.batch, o.dims, o.dtype, o.space, o.text, o.chunks, lambda: source, o.kv):
        if held:
            sys.stdout.buffer.write(held)
            sys.stdout.buffer.flush()
            time.sleep(o.delay)
        held = f
    if state["promised"] and not state["ended"]:
        return 6
    if not o.no_end:
        sys.stdout.buffer.write(held)
        sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
