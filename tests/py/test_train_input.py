#!/usr/bin/env python3
"""What step makes of streams that are well-formed but not what they should be: one line that names the frame, status 3;
and of losses that are not finite: the last good checkpoint stays.

environment: VP_BIN, REPO (as tests/run sets them)
"""
import json, os, shutil, sys, tempfile
import numpy as np
from tap import done, ok
from training import GOLDEN, mutant, pipe, program, safetensors, step, step_frames, whole

MODEL = os.path.join(GOLDEN, "llama")
WIDTH, VOCAB = 64, 320
OPTIONS = ["-m", MODEL, "--lora", "r=2,alpha=4", "--lr", "1e-2", "--schedule", "constant", "--threads", "1"]
count = 0


def rows(random):
    result = []
    for group, length in enumerate([100, 1, 200, 30, 240, 0, 70]):
        target = np.where(random.random(length) < 0.3, random.integers(3, VOCAB, length), -1)
        result.append({"ids": random.integers(3, VOCAB, length), "target": target, "weight": random.random(length), "group": group})
    return result


def tokens(gradients=False):
    """Two steps in two frames each."""
    random = np.random.default_rng(3)
    frames = [f for s in range(2) for f in step_frames(s, rows(random), 2)]
    for columns, keys in frames if gradients else ():
        columns["grad.picked"] = random.normal(size=((columns["target"] >= 0).sum(), WIDTH)).astype("f4")
        columns["loss"] = random.random(len(columns["row"])).astype("f4")
    return frames


def pairs():
    random = np.random.default_rng(4)
    texts = [{"ids": random.integers(3, VOCAB, 70), "group": i // 3, "role": i % 3, "score": i / 12} for i in range(12)]
    return [f for s in range(2) for f in step_frames(s, texts, 2)]


def train(folder, frames, *options, encoder={}):
    global count
    count += 1
    return step(whole(frames, encoder=encoder), os.path.join(folder, str(count)), *OPTIONS, *options)


GIVEN = {"encoder": {"attention": "bi", "pooling": "pick"}}
FUSED = ["--objective", "mntp", "--attention", "bi"]


def refused(folder, what, frames, words, *options, **encoder):
    status, error = train(folder, frames, *options, **encoder)
    published = os.path.exists(os.path.join(folder, str(count), "adapter_model.safetensors"))
    ok(status == 3 and error.startswith("step: ") and error.count("\n") == 1 and all(w in error for w in words.split("|")) and not published,
       f"{what}: {status}, {error.strip()}")


def changed(frames, at, name, x):
    """With another column in frame `at`; x None: without it; or a function of the old one."""
    columns = frames[at][0]
    if x is None: del columns[name]
    else: columns[name] = x(columns[name]) if callable(x) else x
    return frames


def put(at, value):
    def change(x):
        x = x.copy()
        x.flat[at] = value
        return x
    return change


def test_gradients(folder):
    status, error = train(folder, tokens(True), **GIVEN)
    ok(status == 0, f"gradients are taken {error.strip()}")
    for what, at, name, x, words in [
        ("a vector too few", 1, "grad.picked", lambda g: g[1:], "frame 2|grad.picked"),
        ("a number too few", 1, "grad.picked", lambda g: g[:, 1:], "frame 2|grad.picked"),
        ("no loss", 0, "loss", None, "frame 1|loss"),
        ("a loss too few", 0, "loss", lambda x: x[1:], "frame 1|loss"),
        ("a gradient that is no number", 2, "grad.picked", put(70, np.nan), "frame 3|grad.picked|finite"),
        ("an infinite loss", 3, "loss", put(1, np.inf), "frame 4|loss|finite"),
        ("gradients in some frames", 3, "grad.picked", None, "frame 4|some frames"),
        ("gradients of another kind", 0, "grad.emb", np.zeros((len(tokens()[0][0]["row"]), WIDTH), "f4"), "frame 1|grad.emb|grad.picked"),
        ("no targets", 0, "target", None, "frame 1|grad.picked"),
        ("gradients of integers", 0, "grad.picked", lambda g: g.astype("i4"), "frame 1|grad.picked"),
        ("another number of targets", 0, "target", lambda t: 0 * t, "frame 1|grad.picked"),
    ]: refused(folder, what, changed(tokens(True), at, name, x), words, **GIVEN)
    huge = changed(tokens(True), 2, "grad.picked", lambda g: np.full_like(g, 3e38))
    refused(folder, "a gradient that overflows", huge, "step 1|gradient is not finite", **GIVEN)
    refused(folder, "no gradients", tokens(), "frame 1|no gradients|--objective", **GIVEN)


def test_steps(folder):
    for what, name, x, words in [
        ("no units", "unit", None, "unit"), ("units that do not begin at 0", "unit", lambda u: u + 1, "frame 1|unit 1"),
        ("no rows' numbers", "row", None, "'row'"), ("a number twice", "row", put(1, 0), "'row' 0 twice"),
        ("a number too large", "row", put(1, 2**32), "'row'"), ("no offsets", "cu", None, "frame 1|cu"),
        ("a token outside the vocabulary", "ids", put(3, VOCAB), "frame 1|320"),
        ("a target outside the vocabulary", "target", put(3, VOCAB), "target|320"),
        ("a negative weight", "weight", lambda w: -w, "weight"), ("no targets", "target", None, "target"),
        ("positions beyond the model's", "pos", np.arange(1000, 1301).astype("i4"), "frame 1|pos"),
    ]: refused(folder, what, changed(tokens(), 0, name, x), words, *FUSED)
    for what, name, x, words in [
        ("another number of rows", "rows", 6, "'rows'"), ("no number of rows", "rows", None, "'rows'"),
        ("another weight_sum", "weight_sum", 3.5, "weight_sum"), ("no weight_sum", "weight_sum", None, "weight_sum"),
        ("a weight_sum that is no number", "weight_sum", float("nan"), "frame 1|finite"),
        ("no step", "step", None, "step"), ("another step", "step", 4, "step"), ("a step too large", "step", 2**32, "step"),
        ("the last frame in the middle", "last", True, "step"),
    ]:
        frames = tokens()
        if x is None: del frames[0][1][name]
        else: frames[0][1][name] = x
        refused(folder, what, frames, words, *FUSED)
    refused(folder, "a step twice", tokens()[:2] * 2, "step 0", *FUSED)
    refused(folder, "a step left out", tokens()[:2] + step_frames(3, rows(np.random.default_rng(1))), "frame 3|step 3", *FUSED)
    refused(folder, "no last frame", tokens()[:3], "step 1", *FUSED)
    nothing = tokens()
    for _, keys in nothing: keys["weight_sum"] = 0.0
    refused(folder, "weights of nothing", nothing, "weight_sum", *FUSED)
    long = step_frames(0, [{"ids": np.ones(300), "target": np.ones(300)}])
    refused(folder, "a row longer than the model's context", long, "frame 1|row 0|300", *FUSED)
    for name in "group", "role": refused(folder, f"no {name}", [changed([f], 0, name, None)[0] for f in pairs()], f"'{name}'|step 0", "--objective", "infonce")
    refused(folder, "no score", [changed([f], 0, "score", None)[0] for f in pairs()], "'score'", "--objective", "mse")


def overflowing_model(folder):
    """MODEL with a final norm and an output head whose products are infinite."""
    path = os.path.join(folder, "model")
    shutil.copytree(MODEL, path, copy_function=shutil.copyfile)
    file = os.path.join(path, "model.safetensors")
    data, tensors = open(file, "rb").read(), safetensors(file)
    for name, factor in {"model.norm.weight": 1e25, "lm_head.weight": 1e30}.items():
        old = tensors[name].tobytes()
        assert data.count(old) == 1
        data = data.replace(old, (tensors[name] * np.float32(factor)).tobytes())
    with open(file, "wb") as f: f.write(data)
    return path


def test_not_finite(folder):
    """A run whose weights grow without bounds, and a model whose logits overflow, fused and piped."""
    frames = [f for s in range(30) for f in step_frames(s, rows(np.random.default_rng(3)), 2)]
    run = os.path.join(folder, "grows")
    status, error = step(whole(frames), run, *OPTIONS, *FUSED, "--checkpoint-every", 1, "--optimizer", "sgd", "--lr", 1000, "--clip", 0)
    with open(os.path.join(run, "checkpoint", "state.json")) as f: saved = json.load(f)["step"]
    weights = safetensors(os.path.join(run, "checkpoint", "weights.safetensors"))
    ok(status == 3 and f"step {saved}" in error and error.count("\n") == 1, f"a run that diverges: {status}, {error.strip()}")
    ok(0 < saved < 30 and all(np.isfinite(w).all() for w in weights.values()) and not os.path.exists(os.path.join(run, "adapter_model.safetensors")),
       f"its last good checkpoint stays, step {saved}")
    model = overflowing_model(folder)
    refused(folder, "a loss that is not finite", tokens(), "step 0|not finite|row", *FUSED, "-m", model)
    run = os.path.join(folder, "piped")
    statuses, errors = pipe([program("fwd", "-m", model, "--follow", run, "--attention", "bi"), program("pool", "pick"), program("loss", "mntp"),
                             program("step", "--out", run, *OPTIONS, "-m", model)], whole(tokens()))
    ok(statuses[2] == 3 and statuses[3] == 6 and "not finite" in errors, f"and piped: {statuses} {errors.strip()}")


def test_mutants(folder):
    random, wrong, statuses = np.random.default_rng(7), [], {}
    np.seterr(all="ignore")
    for i in range(60):
        kind = i % 3
        frames, options, encoder = [(tokens(), FUSED, {}), (tokens(True), [], GIVEN), (pairs(), ["--objective", "infonce"], {})][kind]
        status, error = train(folder, mutant(random, frames), *options, **encoder)
        statuses[status] = statuses.get(status, 0) + 1
        if status not in (0, 3) or status and error.count("\n") != 1: wrong.append((i, status, error[-300:]))
    ok(not wrong and statuses[3] > 20, f"mutants are refused in one line, or harmless: {statuses} {wrong[:2]}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        test_gradients(folder)
        test_steps(folder)
        test_not_finite(folder)
        test_mutants(folder)
    return done()


sys.exit(main())
