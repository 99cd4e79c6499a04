#!/usr/bin/env python3
"""A loss of one's own in a training run: examples/loss.py between pool and step trains, and trains as step's infonce.

environment: VP_BIN, REPO (as tests/run sets them)
"""
import json, os, shutil, subprocess, sys, tempfile
import numpy as np
from tap import done, ok

REPO, BIN = os.environ["REPO"], os.environ["VP_BIN"]
FEED = "set -euo pipefail; mix pairs.jsonl --batch 6 --steps 3 | tok -m tiny --max-len 48 | mask pairs --negatives 0 | "
STEP = "step --lora r=4,alpha=8 --lr 3e-3 -q --out {0} --log {0}.jsonl"
OWN = FEED + f"fwd --attention bi --follow own | pool mean | {sys.executable} {REPO}/examples/loss.py | " + STEP.format("own")
BUILT_IN = FEED + STEP.format("fused") + " --objective infonce --attention bi --pool mean --scale 20"


def shell(command):
    """Whether it ends in good time without a word but about texts that were cut, and what it said."""
    p = subprocess.run(["timeout", "60", "bash", "-c", command], stderr=subprocess.PIPE,
                       env={**os.environ, "PATH": BIN + ":" + os.environ["PATH"]})
    errors = [line for line in p.stderr.decode().splitlines() if "texts were cut" not in line]
    return p.returncode == 0 and not errors, f"(status {p.returncode}) {errors[-3:]}"


def losses(log):
    return np.array([e["loss"] for e in map(json.loads, open(log)) if e["event"] == "step"])


def weights(folder):
    data = open(folder + "/adapter_model.safetensors", "rb").read()
    n = int.from_bytes(data[:8], "little")
    return {k: np.frombuffer(data[8 + n:][slice(*t["data_offsets"])], "f4") for k, t in json.loads(data[8:8 + n]).items() if k != "__metadata__"}


with tempfile.TemporaryDirectory() as work:
    os.chdir(work)
    os.mkdir("tiny")
    for name in ("golden/llama/config.json", "golden/llama/model.safetensors", "pipelines/tokenizer.json"):
        shutil.copy(os.path.join(REPO, "tests", name), "tiny")
    with open("pairs.jsonl", "w") as f:
        for text in map(json.loads, open(os.path.join(REPO, "examples/corpus.jsonl"))):
            f.write(json.dumps({"query": text["title"], "positive": text["text"]}) + "\n")
    fine, errors = shell(OWN)
    ok(fine, f"three steps with a loss in Python {errors}")
    if fine:
        fine, errors = shell(BUILT_IN)
        ok(fine, f"three steps with step's own {errors}")
        a, b = losses("own.jsonl"), losses("fused.jsonl")
        ok(len(a) == len(b) == 3 and np.abs(a - b).max() <= 1e-4 * np.abs(b).max(), f"the losses are the same: {a} {b}")
        a, b = weights("own"), weights("fused")
        moved = max(np.abs(v).max() for k, v in b.items() if "lora_B" in k)
        ok(a.keys() == b.keys() and moved > 1e-3, f"the adapter has moved, by up to {moved}")
        far = max(np.sqrt(((a[k] - b[k]) ** 2).sum() / (b[k] ** 2).sum()) for k in b)
        ok(far <= 1e-2, f"and is the same: relative distance {far}")
sys.exit(done())
