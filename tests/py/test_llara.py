#!/usr/bin/env python3
"""LLaRA's objective through the programs: its worked example on a model whose output head is the identity, PyTorch's
hidden states and loss of the golden models, which slots see what, and bags that are refused.

environment: VP_BIN, REPO (as tests/run sets them)
"""
import io, json, os, subprocess, sys, tempfile
import numpy as np
from tap import done, ok
from training import BIN, GOLDEN, safetensors, stream, whole


def run(program, *args, data=b""):
    return subprocess.run([os.path.join(BIN, program), *args], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)


def columns(p):
    return [r["columns"] for r in stream.read(io.BytesIO(p.stdout)) if r["kind"] == "batch"]


def identity_model(folder):
    """LLaMA of width and vocabulary 6, of which the output head alone matters."""
    config = {"model_type": "llama", "hidden_size": 6, "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 1,
              "vocab_size": 6, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
    square, layer = np.eye(6, dtype="f4"), "model.layers.0."
    names = [layer + f"self_attn.{x}_proj" for x in "qkvo"] + [layer + f"mlp.{x}_proj" for x in ("gate", "up", "down")]
    tensors = {f"{n}.weight": square for n in [*names, "model.embed_tokens", "lm_head"]}
    tensors |= {f"{n}.weight": np.ones(6, "f4") for n in (layer + "input_layernorm", layer + "post_attention_layernorm", "model.norm")}
    table, at = {}, 0
    for name, x in tensors.items():
        table[name] = {"dtype": "F32", "shape": list(x.shape), "data_offsets": [at, at + x.nbytes]}
        at += x.nbytes
    head = json.dumps(table).encode()
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(len(head).to_bytes(8, "little") + head + b"".join(x.tobytes() for x in tensors.values()))
    with open(os.path.join(folder, "config.json"), "w") as f: json.dump(config, f)


# ---- the worked example: two suffixes of 8 slots ----

SLOTS = np.zeros((16, 6), "f4")
SLOTS[:4] = [(0, 0, 0, 1, 0, -1), (0, 0, 0, 0, 2, 0), (1, 0, 0, 0, 0, 3), (0, .5, 0, 0, 0, 0)]
SLOTS[8, 4] = 1
BOWS = np.array([1.571218, 1.043592])


def example(rows, weight=0.5, weight_sum=0.0):
    """Rows of 16 slots, each given as its two bags."""
    n = len(rows)
    mark = np.concatenate([np.where([bool(b[k])] * 8, -2 - k, -1) for b in rows for k in (0, 1)])
    c = {"ids": np.zeros(16 * n, "i4"), "cu": np.arange(n + 1, dtype="i4") * 16, "row": np.arange(n), "bag": rows,
         "target": mark.astype("i4"), "weight": np.full(16 * n, weight, "f4"), "picked": np.tile(SLOTS, (n, 1))[mark < -1]}
    return whole([(c, {"step": 0, "rows": n, "weight_sum": weight_sum, "last": True})])


def losses(p):
    return columns(p)[0]["loss"].astype("f8") if not p.returncode else np.full(2, np.nan)


def test_worked(model):
    both = [[3, 5], [4]]
    loss = lambda *options, rows=[both], weight=0.5: losses(run("loss", "llara", "-m", model, *options, data=example(rows, weight)))
    for name, got, want in (("bow_1", loss(rows=[[[3, 5], []]], weight=1)[0], 0.157122), ("bow_2", loss(rows=[[[], [4]]], weight=1)[0], 0.104359),
                            ("their mean", loss()[0], 0.130740), ("without / 10", loss("--bag-weight", "1")[0], 1.307405),
                            ("sums, as the paper", loss("--bag-weight", "1", "--bag", "sum")[0], (2 * BOWS[0] + BOWS[1]) / 2)):
        ok(abs(got - want) <= 7e-7, f"{name}: {want} is {got:.6f}")
    two = loss(rows=[both, [[], []]])
    ok(two[0] == loss()[0] and two[1] == 0, "a row without targets changes nothing of the others")
    p = run("loss", "llara", "-m", model, data=example([both], 1))
    grad, z = columns(p)[0]["grad.picked"], SLOTS[:8].max(0)
    want = (np.exp(z) / np.exp(z).sum() - np.array([0, 0, 0, .5, 0, .5])) / 10
    winner = SLOTS[:8].argmax(0)
    ok(np.abs(grad[winner, range(6)] - want).max() < 1e-7 and np.count_nonzero(grad[:8]) == 6, "the gradient goes to the first that won")


# ---- golden models ----

def test_golden(name):
    model, g = os.path.join(GOLDEN, name), safetensors(os.path.join(GOLDEN, name, "golden.safetensors"))
    ids, pos = g["llara.ids"], g["llara.pos"]
    seg, target = np.repeat([0, 1, 2], [19, 8, 8]).astype("u1"), np.repeat([-1, -2, -3], [19, 8, 8]).astype("i4")
    bag = [[sorted(map(int, g[f"llara.target{k}"])) for k in (1, 2)]]
    c = {"ids": ids, "pos": pos, "seg": seg, "cu": np.array([0, 35], "i4"), "row": np.arange(1), "target": target,
         "weight": np.full(35, 0.5, "f4"), "bag": bag}
    states = lambda c: columns(run("fwd", "-m", model, "--attention", "segments", data=whole([(c, {"step": 0, "rows": 1, "weight_sum": 0.0, "last": True})])))[0]
    whole_row = states(c)
    hidden, want = whole_row["hidden"], g["llara.hidden"]
    ok(np.abs(hidden - want).max() <= 1e-4 * np.abs(want).max(), f"{name}: PyTorch's hidden states")
    data = whole([(whole_row, {"step": 0, "rows": 1, "weight_sum": 0.0, "last": True})])
    p = run("loss", "llara", "-m", model, "--bag-weight", "1", data=run("pool", "pick", data=data).stdout)
    ok(abs(losses(p)[0] - float(g["llara.loss"].reshape(-1)[0])) <= 1e-5, f"{name}: PyTorch's loss {losses(p)[0]:.6f} {p.stderr.decode().strip()}")
    changed = states({**c, "ids": np.where(np.arange(35) == 22, (ids + 1) % 320, ids).astype("i4")})["hidden"]
    ok((changed[27:] == hidden[27:]).all() and (changed[:22] == hidden[:22]).all() and (changed[22:27] != hidden[22:27]).any(1).all(),
       f"{name}: another token of the first branch: the second one's states are the same bytes")
    changed = states({**c, "ids": np.where(np.arange(35) == 3, (ids + 1) % 320, ids).astype("i4")})["hidden"]
    ok((changed[19:] != hidden[19:]).any(1).all(), f"{name}: another token of the text changes both")
    alone = np.r_[0:19, 27:35]
    cut = {k: c[k][alone] for k in ("ids", "pos", "seg", "target", "weight")} | {"cu": np.array([0, 27], "i4"), "row": c["row"], "bag": bag}
    got = states(cut)["hidden"]
    ok(np.abs(got[19:] - hidden[27:]).max() <= 1e-5 * np.abs(hidden).max(), f"{name}: they are those of a row without the first branch")


# ---- what is refused ----

def test_refusals(model):
    def refused(what, word, change):
        keys = {"step": 0, "rows": 1, "weight_sum": 0.0, "last": True}
        batch = next(r for r in stream.read(io.BytesIO(example([[[3, 5], [4]]]))) if r["kind"] == "batch")
        c = {k: v.copy() for k, v in batch["columns"].items()}
        change(c)
        p = run("loss", "llara", "-m", model, data=whole([(c, keys)]))
        error = p.stderr.decode()
        ok(p.returncode == 3 and error.startswith("loss: ") and error.count("\n") == 1 and word in error, f"{what}: {p.returncode} {error.strip()}")

    def replace(name, value): return lambda c: c.__setitem__(name, value)
    refused("slots without bags", "'bag'", lambda c: c.pop("bag"))
    refused("slots without weights", "'weight'", lambda c: c.pop("weight"))
    refused("one list", "lists of ids", replace("bag", [[[3]]]))
    refused("no lists", "lists of ids", replace("bag", ["3 5"]))
    refused("a token below 0", "lists of ids", replace("bag", [[[-1], [2]]]))
    refused("a token outside the vocabulary", "6 tokens", replace("bag", [[[6], [2]]]))
    refused("a slot of an empty bag", "without tokens", replace("bag", [[[3], []]]))
    refused("a third bag", "below -3", replace("target", np.full(16, -4, "i4")))
    refused("slots apart", "apart", lambda c: c["target"].__setitem__(12, -2))
    refused("lists in lists", "lists of ids", replace("bag", [[[[1]], [2]]]))


with tempfile.TemporaryDirectory() as folder:
    identity_model(folder)
    test_worked(folder)
    test_golden("llama")
    test_golden("llama-gqa-tied")
    test_refusals(folder)
sys.exit(done())
