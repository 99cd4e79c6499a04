#!/usr/bin/env python3
"""Training ends in the same bytes, adapter and optimiser alike: piped and fused, with one thread and two, in micro-batches
of any size and frames of any cut, whatever is recomputed and kept; with dropout, negatives, accumulation, rows of one
token or none, frames without targets, bags of slots with embedding rows of their own.

environment: VP_BIN, REPO (as tests/run sets them)
"""
import itertools, json, os, sys, tempfile
import numpy as np
from tap import done, ok
from training import GOLDEN, log_of, pipe, program, results, steps

MODEL = os.path.join(GOLDEN, "llama-gqa-tied")
LORA = ["--lora", "r=4,alpha=8", "--lr", "1e-2", "--schedule", "constant"]
VOCAB = 320


# ---- rows: random, the same in every call ----

def ids(random, length):
    return random.integers(3, VOCAB, length)


def mntp_rows(step):
    """Long and short rows; some have no targets, one is of one token, one of none; every third step has no targets."""
    random = np.random.default_rng(100 + step)
    rows = []
    for length in [90, 1, 200, 0, 130, 60, 250, 2, 111, 240, 77]:
        target = np.where(random.random(length) < 0.3, ids(random, length), -1)
        if len(rows) in (1, 4, 9) or step % 3 == 2: target[:] = -1
        rows.append({"ids": ids(random, length), "target": target, "weight": random.random(length)})
    return rows


def view_rows(step):
    """Each text twice, of one token and of none as well."""
    random, rows = np.random.default_rng(200 + step), []
    for group, length in enumerate([120, 1, 210, 40, 170, 0, 33]):
        text = ids(random, length)
        rows += [{"ids": text, "group": group, "view": view} for view in (0, 1)]
    return rows


def pair_rows(step):
    """Queries, positives and 0 to 2 negatives, in no order."""
    random, rows = np.random.default_rng(300 + step), []
    for group in range(6):
        for role in [0, 1] + [2] * (group % 3):
            rows.append({"ids": ids(random, random.integers(1, 180)), "group": group, "role": role})
    return [rows[i] for i in random.permutation(len(rows))]


def tokenless_rows(step):
    return [{"ids": np.zeros(0), "group": g, "role": r} for g in (0, 1) for r in (0, 1)] if step == 1 else pair_rows(step)


def llara_rows(step):
    """A text, then two branches that share their positions, each with 4 slots of the last 8 tokens; some lack a bag."""
    random, rows = np.random.default_rng(500 + step), []
    for row, length in enumerate([60, 1, 130, 33, 97, 200, 12]):
        text, branch = random.integers(3, VOCAB - 8, length), random.integers(3, VOCAB - 8, 5)
        bag = [sorted(map(int, set(random.integers(3, VOCAB - 8, 20)))) if (row + k + step) % 3 else [] for k in (0, 1)]
        slots = [np.full(4, -2 - k if bag[k] else -1) for k in (0, 1)]
        none = np.full(5, -1)
        weight = [np.full(9, 0.5 / 4 if bag[k] else 0) for k in (0, 1)]
        rows.append({"ids": np.concatenate([text, branch, np.arange(VOCAB - 8, VOCAB - 4), branch, np.arange(VOCAB - 4, VOCAB)]),
                     "seg": np.repeat([0, 1, 2], [length, 9, 9]), "bag": bag,
                     "pos": np.concatenate([np.arange(length + 9), np.arange(length, length + 9)]),
                     "target": np.concatenate([text[1:], [-1], none, slots[0], none, slots[1]]),
                     "weight": np.concatenate([np.ones(length - 1), [0], *weight])})
    return rows


def short_rows(step):
    random = np.random.default_rng(400 + step)
    return [{"ids": ids(random, 2), "target": ids(random, 2) * [1, 0] - [0, 1]}]


# ---- ways to train ----

class Case:
    """An objective with its rows and settings, in a folder of runs."""

    def __init__(self, folder, name, objective, rows_of, n=3, pool="mean", dropout=None, settings=(), attention="bi"):
        self.folder, self.name, self.rows_of, self.n = os.path.join(folder, name.replace(" ", "-")), name, rows_of, n
        self.objective, self.pool, self.settings = objective.split(), pool, [*LORA, *settings]
        self.attention, self.dropout = ["--attention", attention], []
        if dropout: self.dropout = ["--attention-dropout", dropout, "--hidden-dropout", dropout]
        if dropout: self.settings[1] += ",dropout=" + dropout
        self.count = itertools.count()
        os.mkdir(self.folder)

    def train(self, parts=1, piped=False, options=()):
        """(results, loss of every step, complaints)"""
        run = os.path.join(self.folder, str(next(self.count)))
        log, data = run + ".log", steps(self.rows_of, self.n, parts)
        step = ["step", "--out", run, "--log", log, "--seed", 7, *self.settings, *options]
        if not piped:
            commands = [[*step, *self.fused()]]
        else:
            pool = ["pool", self.pool] + ([] if self.pool == "pick" else ["--no-normalize"])
            if self.pool == "latent": pool += ["--follow", run]
            fwd = ["fwd", "-m", MODEL, "--follow", run, *self.attention, *self.dropout]
            follow = ["--follow", run] if self.pool == "pick" and "--train-tokens" in self.settings else []
            commands = [[*fwd, *piped], pool, ["loss", *self.objective, *follow], step]
        statuses, errors = pipe([program(*c) for c in commands], data)
        if any(statuses): return None, [], f"{statuses} {errors.strip()}"
        return results(run), [e["loss"] for e in log_of(log)], ""

    def fused(self):
        pool = [] if self.pool == "pick" else ["--pool", self.pool, "--no-normalize"]
        return ["-m", MODEL, *self.attention, "--objective", *self.objective, *pool, *self.dropout]

    def stopped(self, after):
        """The results of a run that came to the end of a shorter stream, then of the rest from where its checkpoint is."""
        run = os.path.join(self.folder, str(next(self.count)))
        step = ["step", "--resume", run, "--seed", 7, *self.settings, *self.fused()]
        pipe([program(*step)], steps(self.rows_of, after))
        with open(os.path.join(run, "checkpoint/state.json")) as f: first = json.load(f)["step"]
        statuses, errors = pipe([program(*step)], steps(self.rows_of, self.n, first=first))
        return results(run), errors

    def same(self, ways):
        """Every way gives what one thread, fused and in one frame a step gives."""
        want, losses, errors = self.train(options=["--threads", "1"])
        ok(want is not None and len(losses) == self.n and np.isfinite(losses).all(), f"{self.name}: losses {losses} {errors}")
        if want is None: return
        ok(None not in want.values() and len(want) == 4 + (self.pool == "latent") and (self.n < 2 or len(set(losses)) > 1), f"{self.name}: it leaves adapter and checkpoint")
        for after in (1, 2) if self.n > 2 else ():
            got, errors = self.stopped(after)
            ok(got == want, f"{self.name}: the same bytes when stopped after {after} {errors.strip()}")
        for what, way in ways.items():
            got, theirs, errors = self.train(**way)
            different = [k for k in want if got and got[k] != want[k]]
            ok(got == want and theirs == losses, f"{self.name}: the same bytes {what} {errors} {different}")


PIPED = {"piped": {"piped": ["--threads", "1"], "options": ["--threads", "1"]},
         "piped, two threads, other cuts": {"piped": ["--threads", "2", "--batch-tokens", "100"], "parts": 4,
                                            "options": ["--threads", "2", "--batch-tokens", "64"]}}
FUSED = {"with two threads": {"options": ["--threads", "2"]},
         **{f"in micro-batches of {n}": {"options": ["--batch-tokens", n]} for n in (64, 512, 4096)},
         "in 4 frames": {"parts": 4}, "in frames of which one is empty": {"parts": -3},
         "with MLPs recomputed": {"options": ["--recompute", "mlp"]},
         "with layers recomputed": {"options": ["--recompute", "layer", "--batch-tokens", "300"]}}
KEPT = {"without keeping activations": {"options": ["--activations", "0"]},
        "with some activations": {"options": ["--activations", "9000000", "--batch-tokens", "256"]}}


def main():
    with tempfile.TemporaryDirectory() as folder:
        Case(folder, "mntp", "mntp", mntp_rows, pool="pick").same({**PIPED, **FUSED})
        views = Case(folder, "views and dropout", "infonce", view_rows, dropout="0.2")
        views.same({**PIPED, **FUSED, **KEPT})
        a, b = (views.train(options=["--threads", 1, "--seed", seed, "--continue", os.path.join(MODEL, "adapter")])[0] for seed in (1, 2))
        ok(a and b and a["adapter_model.safetensors"] != b["adapter_model.safetensors"], "other dropout, other bytes")
        Case(folder, "negatives", "infonce --scale 10 --same-tower q", pair_rows).same({**PIPED, **KEPT, "in 3 frames": {"parts": 3}})
        for form in ("gated", "plain"):
            sizes = ["--latent", f"latents=7,heads=2,inner=9,form={form}" + (",width=5" if form == "gated" else "")]
            Case(folder, f"{form} latents", "infonce --candidates own", pair_rows, pool="latent", dropout="0.1", settings=sizes).same(
                {**PIPED, **KEPT, "in 3 frames": {"parts": 3}, "in micro-batches of 64": {"options": ["--batch-tokens", 64]}})
        Case(folder, "latents, accumulated", "infonce", view_rows, 4, pool="latent", settings=["--accumulate", "2"]).same(PIPED)
        Case(folder, "latents and rows of tokens", "infonce", pair_rows, pool="latent",
             settings=["--latent", "latents=7,heads=2,inner=9", "--train-tokens", "8"]).same(PIPED)
        Case(folder, "accumulated", "infonce", pair_rows, 4, settings=["--accumulate", "2", "--optimizer", "rmsprop"]).same(PIPED)
        Case(folder, "a step without tokens", "infonce", tokenless_rows).same({**PIPED, **KEPT})
        Case(folder, "bags of slots", "llara", llara_rows, pool="pick", attention="segments",
             settings=["--train-tokens", "8"]).same({**PIPED, **FUSED})
        Case(folder, "one short row", "mntp", short_rows, pool="pick", settings=["--optimizer", "sgd"]).same(PIPED)
        Case(folder, "dropout of tokens", "ntp", mntp_rows, pool="pick", dropout="0.1").same(PIPED)
    return done()


sys.exit(main())
