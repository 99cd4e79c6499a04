"""Training streams written in Python, the programs that train on them, and what they leave behind: for the tests of
this folder.

environment: VP_BIN, REPO (as tests/run sets them)
"""
import json, os, subprocess, sys
import numpy as np

REPO, BIN = os.environ["REPO"], os.environ["VP_BIN"]
sys.path.insert(0, os.path.join(REPO, "examples"))
import stream

GOLDEN = os.path.join(REPO, "tests", "golden")
UNIT = 512  # tokens of a gradient unit, at most


def program(name, *args):
    return [os.path.join(BIN, name), *map(str, args)]


# ---- streams ----

def frame(columns, **keys):
    return stream.pack({"kind": "batch", "columns": {k: stream.encode(k, v) for k, v in columns.items()}, **keys})


def header(columns={}, **keys):
    return stream.pack({"vecpipe": 1, "kind": "header", "model": {}, "encoder": {}, "columns": columns, "history": [], **keys})


def whole(frames, declared={}, **keys):
    """A complete stream of frames given as (columns, keys)."""
    numbered = b"".join(frame(columns, seq=n, **k) for n, (columns, k) in enumerate(frames))
    return header(declared, **keys) + numbered + stream.pack({"kind": "end", "batches": len(frames)})


def units_of(rows, limit=UNIT):
    """The gradient unit of each row: runs of whole rows of at most `limit` tokens, or one longer row."""
    units, tokens = [], 0
    for row in rows:
        tokens += len(row["ids"])
        new = not units or tokens > limit
        if new: tokens = len(row["ids"])
        units.append((units[-1] + 1 if units else 0) if new else units[-1])
    return units


def step_frames(step, rows, parts=1):
    """A step of rows, each {"ids": [n] and other columns of tokens: arrays; columns of rows: numbers}, in about `parts`
    frames of whole units; an empty one where parts < 0 stands before the last."""
    units, keys = units_of(rows), {"step": step, "rows": len(rows)}
    if rows and "target" in rows[0]:
        weights = [r["weight"] if "weight" in r else np.ones(len(r["ids"])) for r in rows]
        keys["weight_sum"] = float(sum(w[r["target"] >= 0].sum() for r, w in zip(rows, weights)))
    count = units[-1] + 1 if units else 0
    bounds = sorted({units.index(count * k // abs(parts)) for k in range(abs(parts))} | {len(rows)}) if rows else [0, 0]
    cuts = list(zip(bounds, bounds[1:]))
    if parts < 0: cuts.insert(-1, (cuts[-1][0],) * 2)
    frames = []
    for a, b in cuts:
        part = rows[a:b]
        lengths = [len(r["ids"]) for r in part]
        columns = {"cu": np.cumsum([0] + lengths).astype("i4"), "row": np.arange(a, b, dtype="i8"),
                   "unit": np.array(units[a:b], "i4")}
        for name in rows[0] if rows else ["ids"]:
            values = [r[name] for r in part]
            if name == "bag": columns[name] = values
            elif name in ("group", "role", "view", "score"): columns[name] = np.array(values, {"group": "i4", "score": "f4"}.get(name, "u1"))
            else: columns[name] = np.concatenate([np.zeros(0, "i4"), *values]).astype({"weight": "f4", "seg": "u1"}.get(name, "i4"))
        frames.append((columns, dict(keys)))
    frames[-1][1]["last"] = True
    return frames


def steps(rows_of, n, parts=1, first=0, **keys):
    """The stream of steps `first` to n - 1 of rows_of(step)."""
    return whole([f for s in range(first, n) for f in step_frames(s, rows_of(s), parts)], **keys)


def mutant(random, frames):
    """A column dropped, of another type, length or width, or with strange numbers; or a key that is wrong."""
    columns, keys = frames[random.integers(len(frames))]
    name = list(columns)[random.integers(len(columns))]
    x, kind = columns[name], random.integers(7)
    if kind == 6:
        keys[random.choice(["step", "rows", "last", "weight_sum"])] = [None, -1, 2**40, 1e300, True, "x", [1]][random.integers(7)]
    elif kind == 0 or isinstance(x, list): del columns[name]
    elif kind == 1: columns[name] = x.astype(random.choice(["f4", "i4", "u1", "i8", "f2", "f8"]))
    elif kind == 2: columns[name] = x[:-1] if random.integers(2) else np.concatenate([x, x])
    elif kind == 3: columns[name] = x.reshape(-1, 1) if x.ndim == 1 else x[:, :random.integers(x.shape[1])]
    elif kind == 4: columns[name] = random.integers(-(2**31), 2**31, x.shape).astype(x.dtype)
    else: columns[name] = np.zeros_like(x) if random.integers(2) else (x * np.float32(3e38)).astype(x.dtype)
    return frames


# ---- programs ----

def pipe(commands, data, timeout=300):
    """The commands joined by pipes on data; their (statuses, errors)."""
    running, source = [], subprocess.PIPE
    for i, command in enumerate(commands):
        last = i + 1 == len(commands)
        p = subprocess.Popen(command, stdin=source, stdout=subprocess.DEVNULL if last else subprocess.PIPE, stderr=subprocess.PIPE)
        if i: source.close()
        source = p.stdout
        running.append(p)
    try:
        running[0].stdin.write(data)
        running[0].stdin.close()
    except BrokenPipeError:
        pass
    statuses, errors = [], []
    for p in reversed(running):
        try:
            statuses.insert(0, p.wait(timeout))
        except subprocess.TimeoutExpired:
            p.kill()
            statuses.insert(0, None)
        errors.insert(0, p.stderr.read().decode())
        p.stderr.close()
    return statuses, "".join(errors)


def step(data, run, *options):
    """The program step on a stream; (status, errors)."""
    statuses, errors = pipe([program("step", "--out", run, *options)], data)
    return statuses[0], errors


def log_of(path):
    with open(path) as f:
        return [e for e in map(json.loads, f) if e["event"] == "step"]


# ---- files ----

def safetensors(path_or_bytes):
    """{name: array} of F32, F16 and I32 tensors."""
    data = path_or_bytes if isinstance(path_or_bytes, bytes) else open(path_or_bytes, "rb").read()
    n = int.from_bytes(data[:8], "little")
    types = {"F32": "<f4", "F16": "<f2", "I32": "<i4"}
    return {k: np.frombuffer(data[8 + n:][slice(*t["data_offsets"])], types[t["dtype"]]).reshape(t["shape"])
            for k, t in json.loads(data[8:8 + n]).items() if k != "__metadata__" and t["dtype"] in types}


def adapter(run):
    return safetensors(os.path.join(run, "adapter_model.safetensors"))


def results(run):
    """The bytes by which two runs are compared."""
    names = "adapter_model.safetensors", "checkpoint/weights.safetensors", "checkpoint/optimizer.safetensors", "checkpoint/state.json"
    names += tuple(n for n in ("latent_attention_model.safetensors",) if os.path.exists(os.path.join(run, n)))
    return {n: open(os.path.join(run, n), "rb").read() if os.path.exists(os.path.join(run, n)) else None for n in names}
