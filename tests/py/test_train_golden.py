#!/usr/bin/env python3
"""What PyTorch and PEFT made of the same training: losses, gradient norms and adapters after AdamW steps.

tests/golden/NAME: the adapter after 1 and 3 steps on one MNTP batch, and losses. tests/golden/train: 12 MNTP steps on
SmolLM2-135M-Instruct, of which the first 3 are made; all with TRAIN_STEPS=12 in the environment (needs models/). In f32,
and where there is bf16 in that.
"""
import json, os, shutil, sys, tempfile
import numpy as np, zstandard
from tap import done, ok
from training import GOLDEN, REPO, adapter, log_of, safetensors, step, steps

ADAMW = ["--attention", "bi", "--lr", "1e-3", "--schedule", "constant", "--threads", "1"]


def rows_of(golden, ids):
    cu = golden["cu"]
    return [{"ids": ids[a:b]} for a, b in zip(cu, cu[1:])]


def difference(got, want):
    """The largest difference, over the largest value."""
    if set(got) != set(want): return np.inf
    return max(np.abs(got[k] - want[k]).max() for k in want) / max(np.abs(w).max() for w in want.values())


def named(golden, prefix):
    return {k[len(prefix):]: v for k, v in golden.items() if k.startswith(prefix)}


def of_base(tensors):
    """Under the keys of the model without its head, as our adapters have them."""
    return {k.replace("base_model.model.model.", "base_model.model."): v for k, v in tensors.items()}


def norm_of(golden, prefix):
    return np.sqrt(sum((g.astype("f8") ** 2).sum() for g in named(golden, prefix).values()))


def test_adamw(name, folder):
    model = os.path.join(GOLDEN, name)
    golden = safetensors(os.path.join(model, "golden.safetensors"))
    masked, at = rows_of(golden, golden["mntp.ids"]), 0
    for row in masked:
        row["target"] = golden["mntp.target"][at:at + len(row["ids"])]
        at += len(row["ids"])
    for n in (1, 3):
        run, log = os.path.join(folder, f"{name}-{n}"), os.path.join(folder, "log")
        status, errors = step(steps(lambda s: masked, n), run, "-m", model, "--objective", "mntp", *ADAMW, "--weight-decay", "0.01",
                              "--clip", "1.0", "--continue", os.path.join(model, "adapter"), "--log", log)
        ok(status == 0, f"{name}: {n} MNTP steps end well {errors.strip()}")
        if status: return
        worst = difference(adapter(run), of_base(named(golden, f"adamw.step{n}.")))
        ok(worst <= 1e-4, f"{name}: the adapter after {n} steps, {worst:.1e} of the largest value")
        event = log_of(log)[0]
        os.unlink(log)
    check_loss(f"{name}: mntp", event, golden, "mntp")
    rows = rows_of(golden, golden["ids"])
    for i, row in enumerate(rows): row.update(group=i % 3, role=i // 3)
    test_loss(name, "infonce", rows, golden, "nce", ["--pool", "mean", "--scale", "20", "--attention", "bi"], folder)
    for row in rows:
        row["target"] = np.append(row["ids"][1:], -1)
        del row["group"], row["role"]
    test_loss(name, "ntp", rows, golden, "ntp", ["--attention", "causal"], folder)


def test_loss(name, objective, rows, golden, key, options, folder):
    model, log = os.path.join(GOLDEN, name), os.path.join(folder, "log")
    status, errors = step(steps(lambda s: rows, 1), os.path.join(folder, name + key), "-m", model, "--objective", objective, *ADAMW[2:],
                          *options, "--continue", os.path.join(model, "adapter"), "--log", log)
    ok(status == 0, f"{name}: {objective} ends well {errors.strip()}")
    if status: return
    check_loss(f"{name}: {objective}", log_of(log)[0], golden, key)
    os.unlink(log)


def check_loss(what, event, golden, key):
    want, norm = float(golden[key + ".loss"]), norm_of(golden, key + ".grad.")
    ok(abs(event["loss"] / want - 1) <= 1e-4, f"{what}: loss {event['loss']:.6f}, PyTorch's is {want:.6f}")
    ok(abs(event["norm"] / norm - 1) <= 1e-4, f"{what}: the gradient's length {event['norm']:.6f}, PyTorch's is {norm:.6f}")


# ---- the default model ----

def unpack(name, folder):
    with open(os.path.join(GOLDEN, "train", name + ".zst"), "rb") as f:
        data = zstandard.ZstdDecompressor().decompress(f.read(), max_output_size=1 << 24)
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f: f.write(data)
    return path


def has_bf16():
    with open("/proc/cpuinfo") as f: return "avx512_bf16" in f.read().split()


def test_default_model(folder, compute, bound):
    model = os.path.join(REPO, "models", "SmolLM2-135M-Instruct.gguf")
    n = int(os.environ.get("TRAIN_STEPS", 3))
    if not os.path.exists(model):
        ok(True, "12 steps on the default model # SKIP no models: make models")
        return
    if compute == "bf16" and not has_bf16():
        ok(True, "12 steps in bf16 # SKIP this processor has no instructions for it")
        return
    recorded = safetensors(unpack("stream.safetensors", folder))
    with open(os.path.join(GOLDEN, "train", "curve.json")) as f: curve = json.load(f)["curve"]
    start, log, run = unpack("init/adapter_model.safetensors", folder), os.path.join(folder, "log"), os.path.join(folder, compute)
    shutil.copy(os.path.join(GOLDEN, "train", "init", "adapter_config.json"), os.path.dirname(start))

    def rows_of_step(s):
        at = [(8 * s + i) * 128 for i in range(8)]
        return [{"ids": recorded["ids"][a:a + 128], "target": recorded["target"][a:a + 128]} for a in at]

    status, errors = step(steps(rows_of_step, n), run, "-m", model, "--objective", "mntp", "--attention", "bi", "--lr", "1e-3",
                          "--schedule", "constant", "--continue", os.path.dirname(start), "--compute", compute, "--log", log)
    ok(status == 0, f"{n} steps in {compute} on the default model end well {errors.strip()}")
    if status: return
    events = log_of(log)
    os.unlink(log)
    for key, theirs in {"loss": "loss", "norm": "grad_norm"}.items():
        worst = max(abs(e[key] / c[theirs] - 1) for e, c in zip(events, curve))
        ok(len(events) == n and worst <= bound, f"the {key} of each of the {n} steps is PyTorch's, {worst:.1e} off at most")
    if n < 12: return
    got, first, change = adapter(run), *(of_base(safetensors(p)) for p in (start, unpack("change.safetensors", folder)))
    length = lambda x: np.sqrt(sum((x[k].astype("f8") ** 2).sum() for k in x))
    off = length({k: got[k] - first[k] - change[k] for k in change}) / length(change)
    ok(set(got) == set(change) and off <= 10 * bound, f"the adapter is PyTorch's, {off:.1e} of its change off")


def main():
    with tempfile.TemporaryDirectory() as folder:
        for name in ("llama", "llama-gqa-tied", "mistral", "qwen2"): test_adamw(name, folder)
        test_default_model(folder, "f32", 1e-3)
        test_default_model(folder, "bf16", 1e-2)
    return done()


sys.exit(main())
