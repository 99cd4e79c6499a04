#!/usr/bin/env python3
"""Times training against PEFT on PyTorch on the same steps in one run, and prints tables in Markdown (BENCHMARKS.md).

usage: bench/train.py [--steps N] [--rows N] [mntp] [simcse]     environment: BUILD, PEERS, THREADS (bench/common.py)

The default model, LoRA r 16 on its seven linears, no dropout; both sides read one stream and begin with one adapter, so
that their losses are the same: the first three are compared. Rates leave out loading and the first step, and count no
padding. Exit status: 1 where losses differ.
"""
import argparse, json, os, re, subprocess, sys, tempfile

from common import PEERS, ROOT, SMOLLM2, THREADS, corpus, have_peers, peak

BOUND = {"f32": 1e-3, "bf16": 2e-2}  # of the difference of two losses, relative above 1
RATE = 0.2
# GFLOP a token of one forward of SmolLM2-135M: linears, LoRA of rank 16, attention for each token seen, a place's logits
LINEAR, LORA, ATTENTION, HEAD = 0.2124, 0.00977, 4 * 576 * 30 / 1e9, 2 * 576 * 49152 / 1e9


def gflop(length, marked, forwards=1):
    """A token of a training step: weights stay as they are and have no gradient, LoRA's are as dear as a forward."""
    forward = LINEAR + LORA + ATTENTION * length
    return forward + LINEAR + 2 * LORA + 2.5 * ATTENTION * length + 2 * HEAD * marked + (forwards - 1) * forward


# ---- the programs ----


def pipe(commands, source):
    """Runs programs joined by pipes on a file; the sum of their peak memories in bytes, shared pages counted in each."""
    running, feed = [], open(source, "rb")
    for n, command in enumerate(commands, 1):
        running.append(subprocess.Popen(command, stdin=feed, stdout=subprocess.PIPE if n < len(commands) else subprocess.DEVNULL))
        feed.close()
        feed = running[-1].stdout
    memory = 0
    for p in running:
        _, status, usage = os.wait4(p.pid, 0)
        p.returncode = os.waitstatus_to_exitcode(status)
        memory += usage.ru_maxrss * 1024
    if any(p.returncode for p in running):
        sys.exit("bench: it failed: " + " | ".join(" ".join(command) for command in commands))
    return memory


def shell(command, path):
    with open(path, "wb") as f:
        subprocess.run(["bash", "-euo", "pipefail", "-c", command], stdout=f, check=True)
    return path


def train(folder, stream, start, options, before=()):
    """The steps of a stream, by `step` alone or after the programs before it."""
    run = tempfile.mkdtemp(dir=folder)
    log = os.path.join(run, "log.jsonl")
    step = ["step", "-q", "--threads", THREADS, "-m", SMOLLM2, "--continue", start, "--lr", "1e-4", "--schedule", "constant"]
    follow = ["--follow", run, "--threads", THREADS, "-m", SMOLLM2]
    commands = [[*command, *follow] if command[0] == "fwd" else list(command) for command in before]
    memory = pipe([*commands, [*step, *options, "--clip", "1", "--out", run, "--log", log]], stream)
    with open(log, encoding="utf-8") as f:
        events = [e for e in map(json.loads, f) if e["event"] == "step"]
    of = lambda key: [e[key] for e in events]
    return {"seconds": of("seconds"), "losses": of("loss"), "tokens": of("tokens"), "rows": of("rows"), "peak": memory}


def peer(stream, start, ways):
    command = [PEERS, os.path.join(ROOT, "bench", "peers_train.py"), stream, SMOLLM2, start, THREADS, *ways]
    run = subprocess.run(command, capture_output=True)
    if run.returncode:
        sys.exit(f"bench: the peer failed: {run.stderr.decode().strip().splitlines()[-1:]}")
    return json.loads(run.stdout.splitlines()[-1])


# ---- the works ----


def blocks(folder, steps, rows):
    """Masked next-token prediction: blocks of 128 tokens of package descriptions."""
    texts = corpus(folder, 500)
    return shell(f"mix {texts} --epochs 1000 | tok -q -m {SMOLLM2} --pack 128 --batch {rows} --steps {steps} | "
                 f"mask mntp --rate {RATE}", os.path.join(folder, "mntp.vp"))


def views(folder, steps, rows):
    """SimCSE: sentences of package descriptions, each twice."""
    sentences = os.path.join(folder, "sentences.txt")
    with open(corpus(folder, 500), encoding="utf-8") as f, open(sentences, "w", encoding="utf-8") as out:
        for line in f:
            for sentence in re.split(r"(?<=[.!?]) +", json.loads(line)["text"]):
                if len(sentence.split()) > 4: print(sentence, file=out)
    return shell(f"mix {sentences} --batch {rows} --steps {steps} | tok -q -m {SMOLLM2} --max-len 128 | mask simcse",
                 os.path.join(folder, "simcse.vp"))


MNTP = ["--objective", "mntp", "--attention", "bi"]
SIMCSE = ["--objective", "infonce", "--scale", "20", "--pool", "mean", "--attention", "bi"]
PIPED = [["fwd", "--attention", "bi"], ["pool", "pick"], ["loss", "mntp"]]
WORKS = {
    "mntp": dict(title="MNTP, {rows} x 128 tokens", data=blocks, steps=4, rows=8, marked=RATE, ways=[
        ("fused", MNTP, dict(compute="f32")),
        ("fused, `--batch-tokens 256`", MNTP + ["--batch-tokens", "256"], dict(compute="f32")),
        ("piped", ["--attention", "bi"], dict(compute="f32", forwards=2, before=PIPED)),
        ("PEFT", [], dict(compute="f32")),
        ("PEFT, gradient checkpointing", ["checkpointing"], dict(compute="f32", forwards=2)),
        ("fused, `--compute bf16`", MNTP + ["--compute", "bf16"], dict(compute="bf16")),
        ("PEFT, bf16", ["bf16"], dict(compute="bf16"))]),
    "simcse": dict(title="SimCSE, {rows} sentences twice", data=views, steps=3, rows=32, marked=0, ways=[
        ("fused, one pass", SIMCSE, dict(compute="f32")),
        ("fused, two passes: `--activations 0`", SIMCSE + ["--activations", "0"], dict(compute="f32", forwards=2)),
        ("PEFT", [], dict(compute="f32")),
        ("PEFT, gradient checkpointing", ["checkpointing"], dict(compute="f32", forwards=2)),
        ("fused, one pass, `--compute bf16`", SIMCSE + ["--compute", "bf16"], dict(compute="bf16"))]),
}


def measure(work, folder, stream, start):
    """Every way's result, in order; those that this machine cannot go are left out."""
    with open("/proc/cpuinfo") as f:
        bf16 = "avx512_bf16" in f.read()
    results = []
    for name, options, way in work["ways"]:
        theirs = name.startswith("PEFT")
        if (theirs and not os.path.exists(PEERS)) or (way["compute"] == "bf16" and not bf16): continue
        print(f"bench: {name}", file=sys.stderr, flush=True)
        run = peer(stream, start, options) if theirs else train(folder, stream, start, options, way.get("before", ()))
        results.append({"name": name, "theirs": theirs, "forwards": 1, **way, **run})
    return results


# ---- the table ----


def speed(run):
    return sum(run["tokens"][1:]) / sum(run["seconds"][1:])


def difference(run, other):
    return max(abs(a - b) / max(b, 1) for a, b in zip(run["losses"][:3], other["losses"][:3]))


def table(work, rows, results):
    """Prints it; whether the losses agree."""
    first = results[0]
    length = sum(first["tokens"]) / sum(first["rows"])
    reference = {compute: next((r for r in results if r["theirs"] and r["compute"] == compute), None) for compute in BOUND}
    plain = reference["f32"] or first
    padding = 1 - sum(plain["tokens"]) / sum(plain.get("padded", plain["tokens"]))
    for run in results:
        if run["theirs"] and (run["tokens"] != first["tokens"] or len(run["losses"]) != len(first["losses"])):
            sys.exit(f"bench: {run['name']} saw other steps")
    ceiling = peak() / gflop(length, work["marked"])
    print(f"\n{work['title'].format(rows=rows)} a step, {sum(first['tokens']) / len(first['tokens']):.0f} tokens; "
          f"{gflop(length, work['marked']):.2f} GFLOP a token, so the ceiling is {ceiling:.0f} tokens/s. Losses "
          + ", ".join(f"{x:.6f}" for x in plain["losses"][:3]) + f" ({plain.get('peer', 'fused')})."
          + (f" Padding: {padding:.0%} of what PEFT computes." if padding else ""))
    print("\n| | tokens/s | to PEFT | peak memory | share of the f32 peak | of the ceiling | losses differ by |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    agree = True
    for run in results:
        off, other = difference(run, plain), reference[run["compute"]]
        agree = agree and off <= BOUND[run["compute"]]
        ratio = f"{speed(run) / speed(other):.2f}" if other else ""
        share = speed(run) * gflop(length, work["marked"], run["forwards"]) / peak()
        print(f"| {run['name']} | {speed(run):.0f} | {ratio} | {run['peak'] / 1e9:.2f} GB | {share:.0%} | "
              f"{speed(run) / ceiling:.0%} | {off:.0e} |", flush=True)
    return agree


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("works", nargs="*", choices=[[], *WORKS], metavar="mntp | simcse")
    parser.add_argument("--steps", type=int, help="of each way, at least 2")
    parser.add_argument("--rows", type=int, help="blocks or sentences a step")
    given = parser.parse_args()
    if given.steps is not None and given.steps < 2: parser.error("--steps: the first one is not counted")
    have_peers()
    print(f"{THREADS} threads, f32 peak {peak():.0f} GFLOP/s")
    agree = True
    with tempfile.TemporaryDirectory() as folder:
        for name in given.works or WORKS:
            work = WORKS[name]
            rows = given.rows or work["rows"]
            stream, start = work["data"](folder, given.steps or work["steps"], rows), os.path.join(folder, "start")
            # the adapter that both begin with, after a step that leaves it as it was
            if not os.path.exists(start):
                subprocess.run(f"printf 'one\\nanother\\n' | mix -q - --batch 2 --steps 1 | tok -q -m {SMOLLM2} | mask simcse | "
                               f"step -q {' '.join(SIMCSE)} --lr 0 --schedule constant --lora r=16,alpha=32 --out {start}",
                               shell=True, check=True)
            agree = table(work, rows, measure(work, folder, stream, start)) and agree
    if not agree:
        sys.exit("bench: the losses differ: this is not the same work")


main()
