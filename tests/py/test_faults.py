#!/usr/bin/env python3
"""Kills programs of the embedding pipeline (SIGKILL) at random moments and asks for the index of an undisturbed run.

usage: test_faults.py [SEED [ROUNDS]]      environment: VP_BIN, REPO (as tests/run sets them); needs models/all-MiniLM-L6-v2
"""
import json, os, random, signal, subprocess, sys, tempfile, time
from tap import done, ok

REPO, BIN = os.environ["REPO"], os.environ["VP_BIN"]
MODEL = os.path.join(REPO, "models", "all-MiniLM-L6-v2")
CORPUS = os.path.join(REPO, "examples", "corpus.jsonl")
SEED = int(sys.argv[1]) if len(sys.argv) > 1 else 1
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 50


def program(name, *args):
    return [os.path.join(BIN, name), *args]


def stages(index):
    return [
        program("knn", "missing", "--wait", index, CORPUS),
        program("tok", "-m", MODEL, "--text", "--batch-tokens", "256"),
        program("fwd", "-m", MODEL, "--threads", "1"),
        program("pool"),
        program("knn", "add", index),
    ]


def start(commands):
    """The commands joined by pipes; nothing is left open here, so that a death is seen at both sides."""
    running, source = [], subprocess.DEVNULL
    for i, command in enumerate(commands):
        last = i + 1 == len(commands)
        p = subprocess.Popen(command, stdin=source, stdout=subprocess.DEVNULL if last else subprocess.PIPE,
                             stderr=subprocess.PIPE)
        if source is not subprocess.DEVNULL:
            source.close()
        source = p.stdout
        running.append(p)
    return running


def finish(running, limit):
    """Wait for all; returns (statuses, seconds that the last one took); a hanging program is killed and counts as None."""
    began, statuses = time.monotonic(), []
    for p in running:
        try:
            statuses.append(p.wait(max(0.01, limit - (time.monotonic() - began))))
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()
            statuses.append(None)
        p.stderr.close()
    return statuses, time.monotonic() - began


def export(index):
    out = subprocess.run(program("knn", "export", index, "--jsonl"), capture_output=True, check=True).stdout
    return sorted(out.splitlines())


def verified(index):
    return subprocess.run(program("knn", "verify", index), capture_output=True).returncode == 0


def main():
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory() as folder:
        calm, rough = os.path.join(folder, "calm.idx"), os.path.join(folder, "rough.idx")
        began = time.monotonic()
        statuses, _ = finish(start(stages(calm)), 120)
        length = time.monotonic() - began
        ok(statuses == [0] * 5, f"an undisturbed run succeeds: {statuses}")
        want = export(calm)
        with open(CORPUS, encoding="utf-8") as f:
            rows = sum(1 for line in f if line.strip())
        ok(len(want) == rows, f"it holds every record: {len(want)} of {rows}")

        hung = crashed = 0
        for turn in range(ROUNDS):
            running = start(stages(rough))
            victim = turn % 5  # every program in turn
            time.sleep(rng.random() * length)
            if running[victim].poll() is None:
                running[victim].send_signal(signal.SIGKILL)
            statuses, _ = finish(running, 60)
            hung += None in statuses
            others = [s for i, s in enumerate(statuses) if i != victim]
            crashed += any(s is not None and s not in (0, 6, -signal.SIGPIPE) for s in others)
            if rng.random() < 0.1:  # begin again, so that early moments are met too
                subprocess.run(["rm", "-rf", rough])
        ok(hung == 0, f"nobody hangs when another is killed ({hung} of {ROUNDS} rounds)")
        ok(crashed == 0, f"the survivors end with 0, 6 or SIGPIPE ({crashed} of {ROUNDS} rounds did not)")
        statuses, _ = finish(start(stages(rough)), 120)
        ok(statuses == [0] * 5, f"the next clean run succeeds: {statuses}")
        ok(export(rough) == want, f"after {ROUNDS} kills the index equals an undisturbed one (seed {SEED})")
        ok(verified(rough), "and verifies")

        both = os.path.join(folder, "both.idx")
        first, second = start(stages(both)), start(stages(both))
        results = finish(first, 120)[0] + finish(second, 120)[0]
        ok(results == [0] * 10, f"two jobs at once succeed: {results}")
        ok(export(both) == want, "and leave the same content")
        began = time.monotonic()
        statuses, _ = finish(start(stages(both)), 60)
        ok(statuses == [0] * 5, "a run with nothing to do succeeds")
        print(f"# nothing to do: {1000 * (time.monotonic() - began):.0f} ms")
    return done()


sys.exit(main())
