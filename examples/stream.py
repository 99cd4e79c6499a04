#!/usr/bin/env python3
"""Reads and writes vecpipe/1 streams (vecpipe(5)) with numpy, msgpack and xxhash; import it, or run it:

    tok -m MODEL < texts.jsonl | fwd | pool | examples/stream.py     prints each row's id and the length of its vector
    examples/stream.py 5,9,11 7 | fwd -m MODEL | pool | peek         sends rows of tokens
"""
import os, re, sys
import msgpack, numpy as np, xxhash

SCHEMA = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "schemas", "columns.def")
COLUMNS = {name: dtypes.split("|") for name, dtypes in re.findall(r'^X\("(.+?)", "(.+?)"', open(SCHEMA).read(), re.M)}
NUMPY = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I8": "i1", "U8": "u1", "I16": "<i2", "U16": "<u2",
         "I32": "<i4", "U32": "<u4", "I64": "<i8", "U64": "<u8", "BOOL": "?"}

def pack(record):
    body = msgpack.packb(record)
    return msgpack.packb(msgpack.ExtType(1, xxhash.xxh3_64_intdigest(body).to_bytes(8, "little") + body))

def encode(name, x):
    """A numpy array as a tensor of the type that the column table names; a list as it is (an array of values)."""
    if isinstance(x, list): return x
    own = next((d for d in NUMPY if np.dtype(NUMPY[d]) == x.dtype), None)
    dtype = own if own in COLUMNS.get(name, [own]) else COLUMNS[name][0]
    if dtype == "BF16":
        bits = x.astype("<f4").view("<u4") # to the nearest, ties to even
        return {"dtype": dtype, "shape": list(x.shape), "data": (bits + 0x7fff + (bits >> 16 & 1) >> 16).astype("<u2").tobytes()}
    return {"dtype": dtype, "shape": list(x.shape), "data": x.astype(NUMPY[dtype]).tobytes()}

def decode(x):
    if isinstance(x, list): return x
    if x["dtype"] == "BF16": return (np.frombuffer(x["data"], "<u2").astype("<u4") << 16).view("<f4").reshape(x["shape"])
    return np.frombuffer(x["data"], NUMPY[x["dtype"]]).reshape(x["shape"])

def write(file, batches, end={}, **header):
    """Batches are maps of columns: {"ids": array, "cu": array, "id": list}; header: model, encoder, columns, history."""
    file.write(pack({"vecpipe": 1, "kind": "header", "model": {}, "encoder": {}, "columns": {}, "history": [], **header}))
    for n, batch in enumerate(batches):
        file.write(pack({"kind": "batch", "seq": n, "columns": {k: encode(k, v) for k, v in batch.items()}}))
    file.write(pack({"kind": "end", "batches": len(batches), **end}))

def frames(file):
    """msgpack's objects as they arrive; reading is not held up by what is still to come: others may wait for an answer."""
    unpacker = msgpack.Unpacker(max_buffer_size=2**29)
    while data := file.read1(1 << 20):
        unpacker.feed(data)
        yield from unpacker

def read(file):
    """Every record of a stream, columns decoded; raises ValueError for damage and EOFError if the end is missing."""
    record = {}
    for frame in frames(file):
        if not isinstance(frame, msgpack.ExtType) or frame.code != 1: raise ValueError("not a vecpipe stream")
        if xxhash.xxh3_64_intdigest(frame.data[8:]) != int.from_bytes(frame.data[:8], "little"): raise ValueError("checksum")
        record = msgpack.unpackb(frame.data[8:])
        if record["kind"] == "batch": record["columns"] = {k: decode(v) for k, v in record["columns"].items()}
        yield record
    if record.get("kind") != "end": raise EOFError("the stream has no end: an upstream program died")

if __name__ == "__main__":
    rows = [[int(token) for token in row.split(",")] for row in sys.argv[1:]]
    if rows:
        write(sys.stdout.buffer, [{"ids": np.array(sum(rows, [])), "cu": np.cumsum([0] + [len(r) for r in rows])}])
    for record in [] if rows else read(sys.stdin.buffer):
        columns = record["columns"] if record["kind"] == "batch" else {"emb": []}
        for i, vector in enumerate(columns["emb"]):
            print(columns["id"][i] if "id" in columns else i, np.linalg.norm(vector))
