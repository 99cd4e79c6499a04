#!/usr/bin/env python3
"""A loss of one's own in the place of `loss`: ... | fwd --follow run/ | pool mean | examples/loss.py | step --out run/"""
import sys
import numpy as np, stream

def contrastive(x, group, role, scale=20):
    """Loss and gradient a row: every query (role 0) must find its group's positive (role 1) among all positives."""
    length = np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    u, du, loss = x / length, np.zeros_like(x), np.zeros(len(x))
    q, p = (sorted(np.flatnonzero(role == r), key=group.__getitem__) for r in (0, 1))
    e = np.exp(scale * (u[q] @ u[p].T - 1))
    loss[q] = np.log(e.sum(1) / e.diagonal()) / len(q)
    ds = scale * (e / e.sum(1, keepdims=True) - np.eye(len(q))) / len(q)
    du[q], du[p] = ds @ u[p], ds.T @ u[q]
    return loss, ((du - u * (u * du).sum(1, keepdims=True)) / length).astype("f4")

held = []  # the frames of a step
for record in stream.read(sys.stdin.buffer):
    held.append(record)
    if record["kind"] == "batch" and not record.get("last"): continue
    if record["kind"] == "batch":
        loss, grad = contrastive(*(np.concatenate([f["columns"][k] for f in held]) for k in ("emb", "group", "role")))
        for columns in (f["columns"] for f in held):
            n = len(columns.pop("emb"))
            columns["loss"], loss, columns["grad.emb"], grad = loss[:n], loss[n:], grad[:n], grad[n:]
            columns.update({k: stream.encode(k, v) for k, v in columns.items()})
    sys.stdout.buffer.write(b"".join(map(stream.pack, held)))
    sys.stdout.buffer.flush()
    held = []
