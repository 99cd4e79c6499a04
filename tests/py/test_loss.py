#!/usr/bin/env python3
"""The program loss on streams that Python writes: worked examples, numpy's cross-entropy of a golden model's head, the
same bytes however a step is cut into frames, streams that are refused or cut off, and the example loss in Python.

environment: VP_BIN, REPO (as tests/run sets them)
"""
import io, itertools, json, os, subprocess, sys, tempfile
import numpy as np
from tap import done, ok
from training import BIN, REPO, frame, header, mutant, safetensors, stream, whole

LLAMA = os.path.join(REPO, "tests/golden/llama")


def run(*args, data=b"", program="loss"):
    command = [os.path.join(BIN, program), *args]
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)


def batches(p):
    return [r["columns"] for r in stream.read(io.BytesIO(p.stdout)) if r["kind"] == "batch"]


def by_row(p):
    """{row: (loss, gradient bytes)} of every row that a run wrote."""
    return {int(row): (loss, grad.tobytes()) for c in batches(p) for row, loss, grad in zip(c["row"], c["loss"], c["grad.emb"])}


# ---- the worked example of contrastive losses ----

EMB = np.array([(3, 4), (4, 3), (0, 2), (4, 3), (3, 4), (-3, 4), (5, 12), (12, 5), (-5, 12)], "f4")
EXAMPLE = {"emb": EMB, "row": np.arange(9), "group": np.array([0, 1, 2] * 3, "i4"), "role": np.array([0] * 3 + [1] * 3 + [2] * 3, "u1"),
           "score": np.array([0] * 3 + [.9, .7, .2, .1, .3, -.4], "f4"), "id": [f"r{i}" for i in range(9)]}


def cut(columns, parts, step=0, **keys):
    """A step's rows, given as lists of row numbers a frame, as frames."""
    rows = sum(len(p) for p in parts)
    take = lambda c, p: [c[i] for i in p] if isinstance(c, list) else c[list(p)]
    return [({k: take(c, p) for k, c in columns.items()},
             {"step": step, "rows": rows, **({"last": True} if p is parts[-1] else {}), **keys}) for p in parts]


def test_worked():
    data = whole(cut(EXAMPLE, [range(9)]), {"emb": ["F32", ["B", 2]], "row": ["I64", ["B"]]})
    for options, want in {("--scale", "1"): 1.650429, (): 2.091797, ("--scale", "50"): 3.816951,
                          ("--candidates", "own"): 1.374272, ("--scale", "1", "--same-tower", "q"): 1.945872,
                          ("--same-tower", "q"): 2.239319}.items():
        p = run("infonce", *options, data=data)
        got = batches(p)[0]["loss"].astype("f8").sum() if not p.returncode else np.nan
        ok(abs(got - want) <= max(6e-7, 6e-6 * ("50" in options)), f"infonce {' '.join(options)}: {want} is {got:.6f} {p.stderr.decode().strip()}")
    p = run("infonce", "--scale", "1", data=data)
    want = [(-0.020610, 0.015458), (0.000024, -0.000032), (0.136705, 0)]
    ok(np.abs(batches(p)[0]["grad.emb"][:3] - want).max() <= 6e-7, "its gradient")
    record = next(stream.read(io.BytesIO(p.stdout)))
    ok(record["columns"] == {"row": ["I64", ["B"]], "grad.emb": ["F32", ["B", 2]], "loss": ["F32", ["B"]]} and
       record["objective"] == "infonce", f"the header says what follows: {record['columns']}")
    columns = batches(p)[0]
    ok("emb" not in columns and columns["id"] == EXAMPLE["id"] and (columns["role"] == EXAMPLE["role"]).all(), "other columns pass")


def test_cuts():
    """Every way to cut 9 rows into frames, and rows in another order."""
    for name in ("infonce", "distill", "cosent"):
        want = by_row(run(name, data=whole(cut(EXAMPLE, [range(9)]))))
        wrong = 0
        for ends in itertools.product((False, True), repeat=8):
            bounds = [0, *[i + 1 for i in range(8) if ends[i]], 9]
            if name != "infonce" and len(bounds) % 4: continue
            parts = [range(a, b) for a, b in zip(bounds, bounds[1:])]
            p = run(name, data=whole(cut(EXAMPLE, parts)))
            wrong += p.returncode != 0 or len(batches(p)) != len(parts) or by_row(p) != want
        ok(len(want) == 9 and wrong == 0, f"{name}: the same bytes however the step is cut")
        parts = [[8, 1], [], [0, 4, 7, 2], [6, 3, 5]]
        p = run(name, data=whole(cut(EXAMPLE, parts)))
        ok(by_row(p) == want, f"{name}: and in whatever order its rows come {p.stderr.decode().strip()}")


def test_steps():
    frames = cut(EXAMPLE, [range(5), range(5, 9)], 3) + cut(EXAMPLE, [range(9)], 4)
    with tempfile.NamedTemporaryFile() as log:
        p = run("infonce", "--log", log.name, data=whole(frames))
        events = [e for e in map(json.loads, open(log.name)) if e["event"] == "step"]
    ok([e["step"] for e in events] == [3, 4] and all(abs(e["loss"] - 2.091797) < 1e-6 and e["rows"] == 9 for e in events), "the log has every step")
    ok(p.returncode == 0 and len(batches(p)) == 3, "steps follow each other")
    data = header() + b"".join(frame(c, seq=n, **k) for n, (c, k) in enumerate(frames[:2] + cut(EXAMPLE, [range(4), range(4, 9)], 5)[:1]))
    for name, bytes_ in {"between frames": data, "inside a frame": data[:-7]}.items():
        p = run("infonce", data=bytes_)
        complete = p.stdout.count(b"grad.emb") - p.stdout.count(b"grad.emb\x92")
        ok(p.returncode == 6 and complete == 2, f"a step cut off {name}: 6, and nothing of it is written ({p.returncode}, {complete} frames)")


def refused(what, name, frames, *words, status=3):
    p = run(name, *(["-m", LLAMA] if name == "mntp" else []), data=whole(frames))
    error = p.stderr.decode()
    ok(p.returncode == status and error.startswith("loss: ") and error.count("\n") == 1 and all(w in error for w in words),
       f"{what}: {p.returncode}, {error.strip()}")


def test_refusals():
    without = lambda *names: {k: v for k, v in EXAMPLE.items() if k not in names}
    refused("no group", "infonce", cut(without("group"), [range(9)]), "'group'", "step 0")
    refused("no role", "infonce", cut(without("role"), [range(9)]), "'role'")
    refused("no emb", "infonce", cut(without("emb"), [range(9)]), "'emb'", "pool")
    refused("no score", "mse", cut(without("score"), [range(9)]), "'score'")
    refused("no row", "mse", cut(without("row"), [range(9)]), "'row'")
    refused("no positive", "infonce", cut(EXAMPLE, [[0, 1, 2, 4, 5]]), "no positive", "row 0")
    refused("two queries", "infonce", cut({**EXAMPLE, "group": np.zeros(9, "i4")}, [range(9)]), "two queries")
    frames = cut(EXAMPLE, [range(4), range(4, 9)])
    del frames[1][0]["role"]
    refused("a column in some frames", "infonce", frames, "'role'", "some frames")
    frames = cut(EXAMPLE, [range(4), range(4, 9)])
    frames[1][0]["emb"] = np.zeros((5, 3), "f4")
    refused("another width", "infonce", frames, "width")
    refused("a step again", "infonce", cut(EXAMPLE, [range(9)], 3) + cut(EXAMPLE, [range(9)], 2), "step 2 after step 3")
    refused("no step", "infonce", [(EXAMPLE, {})], "'step'")
    refused("no last", "infonce", [(EXAMPLE, {"step": 0, "rows": 9})], "")
    huge = {**EXAMPLE, "emb": np.full((9, 2), 1e38, "f4")}
    p = run("mse", data=whole(cut({**huge, "score": np.full(9, 3e38, "f4")}, [range(9)])))
    ok(p.returncode == 3 and b"not finite" in p.stderr, f"a loss that is not finite: {p.stderr.decode().strip()}")
    p = run("infonce", data=whole([]))
    ok(p.returncode == 0 and not batches(p), f"a stream without steps {p.stderr.decode().strip()}")


# ---- tokens, with the head of a golden model ----

def token_step(head, step=0):
    """Rows of tokens with targets, weights and picked states; one row without targets."""
    random = np.random.default_rng(5)
    rows = []
    for row, n in enumerate([7, 3, 40, 1, 12]):
        target = np.where(random.random(n) < 0.4, random.integers(0, len(head), n), -1).astype("i4")
        if row == 1: target[:] = -1
        weight = np.where(target < 0, 0, random.random(n)).astype("f4")
        picked = random.normal(size=((target >= 0).sum(), head.shape[1])).astype("f4")
        picked[:1] = 9 * head[target[target >= 0][:1]]  # some are right
        rows.append({"ids": np.zeros(n, "i4"), "target": target, "weight": weight, "picked": picked, "row": row})
    return rows


def token_frames(rows, parts, weight_sum, step=0):
    frames = []
    for p in parts:
        columns = {k: np.concatenate([rows[i][k] for i in p]) for k in ("ids", "target", "weight", "picked")}
        columns["cu"] = np.cumsum([0] + [len(rows[i]["ids"]) for i in p]).astype("i4")
        columns["row"] = np.array([rows[i]["row"] for i in p], "i8")
        frames.append((columns, {"step": step, "rows": len(rows), "weight_sum": weight_sum, **({"last": True} if p is parts[-1] else {})}))
    return frames


def test_tokens():
    head = safetensors(LLAMA + "/model.safetensors")["lm_head.weight"]
    rows = token_step(head)
    target = np.concatenate([r["target"] for r in rows])
    total = float(np.concatenate([r["weight"] for r in rows]).astype("f8").sum())
    x = np.concatenate([r["picked"] for r in rows]).astype("f8")
    w = np.concatenate([r["weight"] for r in rows])[target >= 0] / total
    logits = x @ head.T.astype("f8")
    z = np.exp(logits - logits.max(1, keepdims=True))
    z /= z.sum(1, keepdims=True)
    marked = np.arange(len(x)), target[target >= 0]
    share, z[marked], right = -np.log(z[marked]) * w, z[marked] - 1, (logits.argmax(1) == marked[1]).mean()
    with tempfile.NamedTemporaryFile() as log:
        p = run("mntp", "-m", LLAMA, "--log", log.name, data=whole(token_frames(rows, [range(5)], total)))
        event = [e for e in map(json.loads, open(log.name)) if e["event"] == "step"][:1]
    if not ok(p.returncode == 0 and len(event) == 1, f"mntp {p.stderr.decode().strip()}") and p.returncode: return
    columns = batches(p)[0]
    grad = columns["grad.picked"]
    ok(np.abs(grad - (z * w[:, None]) @ head).max() <= 1e-6 and grad.shape == x.shape, "its gradient is numpy's")
    ends = np.cumsum([0] + [len(r["picked"]) for r in rows])
    per_row = [share[a:b].sum() for a, b in zip(ends, ends[1:])]
    ok(np.abs(columns["loss"] - per_row).max() <= 1e-6 and columns["loss"][1] == 0, "its loss a row")
    ok(abs(event[0]["loss"] - share.sum()) <= 1e-6 and event[0]["targets"] == len(x) and abs(event[0]["accuracy"] - right) <= 1e-6 and right > 0,
       f"the log: {event[0]}")
    for parts in ([[0], [1], [2], [3], [4]], [[0, 1, 2], [3, 4]], [[4, 2], [1, 3, 0]]):
        for threads in "1", "2":
            p = run("ntp", "-m", LLAMA, "--threads", threads, data=whole(token_frames(rows, parts, total)))
            got = {}
            for c in batches(p):
                at = 0
                for b, row in enumerate(c["row"]):
                    n = len(rows[row]["picked"])
                    got[int(row)] = c["grad.picked"][at:at + n].tobytes() + c["loss"][b].tobytes()
                    at += n
            want = {r: grad[ends[r]:ends[r + 1]].tobytes() + columns["loss"][r].tobytes() for r in range(5)}
            ok(got == want, f"the same bytes in frames {parts}, {threads} threads")
    test_token_refusals(rows, total)


def test_token_refusals(rows, total):
    for name, word in {"target": "mask makes it", "picked": "pool pick makes it", "row": "'row'"}.items():
        frames = token_frames(rows, [range(5)], total)
        del frames[0][0][name]
        refused(f"no {name}", "mntp", frames, word)
    frames = token_frames(rows, [range(5)], total)
    del frames[0][1]["weight_sum"]
    refused("no weight_sum", "mntp", frames, "weight_sum", "mask makes it")
    frames = token_frames(rows, [range(5)], total)
    frames[0][0]["target"] = np.where(frames[0][0]["target"] < 0, -1, 320).astype("i4")
    refused("a target outside the vocabulary", "mntp", frames, "frame 1", "320")
    refused("weights of nothing", "mntp", token_frames(rows, [range(5)], 0.0), "weight_sum")
    frames = token_frames(rows, [range(5)], total)
    frames[0][0]["picked"] = frames[0][0]["picked"][1:]
    refused("a row too few", "mntp", frames, "picked")
    refused("a step back", "mntp", token_frames(rows, [range(5)], total, 4) + token_frames(rows, [range(5)], total, 3), "step 3 after step 4")
    refused("a step twice", "mntp", token_frames(rows, [range(5)], total, 4) * 2, "step 4")
    refused("a step cut short", "mntp", token_frames(rows, [range(3), range(3, 5)], total, 4)[:1], "step 4")
    p = run("mntp", data=whole(token_frames(rows, [range(5)], total)))
    ok(p.returncode == 2, f"no model: {p.stderr.decode().strip()}")
    p = run("mntp", "-m", os.path.join(REPO, "tests/golden/bert"), data=whole([]))
    ok(p.returncode == 3 and b"head" in p.stderr, f"a model without a head: {p.stderr.decode().strip()}")


# ---- frames that are well-formed, but not what they should be ----

def test_mutants():
    random = np.random.default_rng(7)
    head = safetensors(LLAMA + "/model.safetensors")["lm_head.weight"]
    wrong, counts = [], {}
    np.seterr(all="ignore")
    for i in range(240):
        name = ["infonce", "mntp", "distill", "mse", "cosent"][i % 5]
        if name == "mntp": frames = token_frames(token_step(head), [[0, 1], [2, 3, 4]], 3.5)
        else: frames = cut(EXAMPLE, [range(4), range(4, 9)])
        p = run(name, *(["-m", LLAMA] if name == "mntp" else []), data=whole(mutant(random, frames)))
        counts[p.returncode] = counts.get(p.returncode, 0) + 1
        if p.returncode not in (0, 3) or p.stderr.count(b"\n") != (p.returncode != 0): wrong.append((i, p.returncode, p.stderr[-300:]))
    ok(not wrong and counts[3] > 100, f"mutants are refused in one line, or harmless: {counts} {wrong[:2]}")


# ---- the example ----

def test_example():
    pairs = cut(EXAMPLE, [range(4), range(4, 6)]) + cut(EXAMPLE, [range(6)], 1)
    data = whole(pairs, {"emb": ["F32", ["B", 2]]})
    path = os.path.join(REPO, "examples/loss.py")
    p = run(path, data=data, program=sys.executable)
    want, got = batches(run("infonce", data=data)), batches(p)
    ok(p.returncode == 0 and len(got) == 3, f"examples/loss.py runs {p.stderr.decode().strip()[-200:]}")
    same = all(np.abs(a[k] - b[k]).max() <= 1e-6 for a, b in zip(want, got) for k in ("loss", "grad.emb"))
    ok(same and all(set(a) == set(b) for a, b in zip(want, got)), "and gives what loss infonce gives")
    ok(len(open(path).readlines()) < 30, "in under 30 lines")
    p = run("--jsonl", data=p.stdout, program="peek")
    ok(p.returncode == 0 and b"grad.emb" in p.stdout, f"and the programs read it {p.stderr.decode().strip()}")


test_worked()
test_cuts()
test_steps()
test_refusals()
test_tokens()
test_mutants()
test_example()
sys.exit(done())
