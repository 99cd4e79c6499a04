#!/usr/bin/env python3
"""Kills programs of a training pipeline at random moments, goes on with --resume, and asks for the bytes of a run that
nobody disturbed.

usage: test_train_faults.py [SEED [ROUNDS]]      environment: VP_BIN, REPO (as tests/run sets them)
"""
import json, os, random, shutil, signal, subprocess, sys, tempfile, time
from tap import done, ok
from training import GOLDEN, REPO, program, results

SEED = int(sys.argv[1]) if len(sys.argv) > 1 else 1
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 10
STEPS = 24
NOTE = 60000  # bytes that travel with a text: pipes are full, and programs live, for as long as step trains
PROGRAMS = ["mix", "tok", "mask", "fwd", "pool", "loss", "step"]
LIMIT = 5  # seconds that nobody may outlive the dead


class Training:
    """MNTP on a tiny model; `packed` decides whether mix or tok makes the steps, and so who passes over what was done."""

    def __init__(self, folder, packed):
        self.model, self.corpus, self.packed = os.path.join(folder, "model"), os.path.join(folder, "corpus.jsonl"), packed
        if os.path.exists(self.model): return
        shutil.copytree(os.path.join(GOLDEN, "llama"), self.model, copy_function=shutil.copyfile)
        shutil.copyfile(os.path.join(REPO, "tests/tokenizers/bytes.json"), os.path.join(self.model, "tokenizer.json"))
        words = random.Random(5).choices("of the and seven rivers run under an old stone bridge at night".split(), k=4000)
        with open(self.corpus, "w") as f:
            for i in range(0, len(words), 10): f.write(json.dumps({"id": i, "text": " ".join(words[i:i + 10]), "note": "n" * NOTE}) + "\n")

    def start(self, run):
        if self.packed:
            first = [["mix", self.corpus, "--seed", 3], ["tok", "-m", self.model, "--pack", 48, "--batch", 6, "--steps", STEPS, "--resume", run]]
        else:
            first = [["mix", self.corpus, "--seed", 3, "--batch", 6, "--steps", STEPS, "--resume", run], ["tok", "-m", self.model]]
        rest = [["mask", "mntp", "--rate", 0.4],
                ["fwd", "--follow", run, "--attention", "bi", "--threads", 1, "--attention-dropout", 0.1],
                ["pool", "pick"], ["loss", "mntp", "--threads", 1],
                ["step", "--resume", run, "--lora", "r=4,alpha=8,dropout=0.1", "--lr", 1e-2, "--warmup", 0.1, "--threads", 1,
                 "--checkpoint-every", 3]]
        running, source = [], subprocess.DEVNULL
        for command in first + rest:
            p = subprocess.Popen(program(*command), stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            if source is not subprocess.DEVNULL: source.close()
            source = p.stdout
            running.append(p)
        source.close()
        return running


def finish(running, limit, lives=None):
    """Wait for all: (statuses, complaints); one that hangs is killed and has status None. lives: seconds that each lived."""
    began, left = time.monotonic(), dict(enumerate(running))
    lives = {} if lives is None else lives
    while left and time.monotonic() < began + limit:
        time.sleep(0.005)
        for i in [i for i, p in left.items() if p.poll() is not None]:
            lives[i] = time.monotonic() - began
            del left[i]
    for p in left.values():
        p.kill()
        p.wait()
    errors = [p.stderr.read().decode() for p in running]
    for p in running: p.stderr.close()
    return [None if i in left else p.returncode for i, p in enumerate(running)], errors


def checkpoint_step(run):
    path = os.path.join(run, "checkpoint", "state.json")
    if not os.path.exists(path): return 0
    with open(path) as f: return json.load(f)["step"]


class Rounds:
    """Kill after kill on one run after another; what went wrong."""

    def __init__(self, training, folder, calm, lives, rng):
        self.training, self.rng, self.calm, self.lives = training, rng, calm, lives
        self.run = os.path.join(folder, "rough-packed" if training.packed else "rough")
        self.wrong, self.finished, self.kills = [], 0, 0

    def check_finished(self, killed=False):
        self.finished += 1
        different = [k for k, v in results(self.calm).items() if results(self.run)[k] != v]
        if different: self.wrong.append(f"run {self.finished}: {different} differ")
        if not killed and sorted(os.listdir(self.run)) != sorted(os.listdir(self.calm)): self.wrong.append(f"left: {sorted(os.listdir(self.run))}")
        shutil.rmtree(self.run)

    def kill(self, victim, how):
        before = checkpoint_step(self.run)
        running = self.training.start(self.run)
        time.sleep(self.rng.random() * self.lives[victim])
        hit = running[victim].poll() is None
        if hit: running[victim].send_signal(how)
        self.kills += hit
        statuses, errors = finish(running, LIMIT if hit else 60)
        what = f"{PROGRAMS[victim]} {how.name}: {statuses} {''.join(errors).strip()}"
        others = [s for i, s in enumerate(statuses) if i != victim]
        if victim == 0 and "enough for 0 steps" in errors[1]: others.remove(3)  # killed before its first line: an empty input
        if None in statuses: self.wrong.append("hung: " + what)
        elif any(s not in (0, 6, -signal.SIGPIPE) for s in others): self.wrong.append(what)
        elif any(e.count("\n") > 1 for e in errors): self.wrong.append("more than a line: " + what)
        if statuses[-1] == 0: return self.check_finished()
        if os.path.exists(os.path.join(self.run, "adapter_model.safetensors")):
            if statuses[:-1] == [0] * (len(statuses) - 1): return self.check_finished(killed=True)  # after its last word
            self.wrong.append("published: " + what)
        if checkpoint_step(self.run) < before: self.wrong.append("the checkpoint went back: " + what)

    def end(self):
        statuses, errors = finish(self.training.start(self.run), 60)
        if statuses[-1] != 0: self.wrong.append(f"the last run: {statuses} {''.join(errors)}")
        else: self.check_finished()


def main():
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory() as folder:
        for packed in (False, True):
            what, training, calm = "packed" if packed else "mixed", Training(folder, packed), os.path.join(folder, f"calm{packed}")
            lives = {}
            statuses, errors = finish(training.start(calm), 60, lives)
            ok(set(statuses[1:]) == {0}, f"{what}: an undisturbed run succeeds {statuses} {''.join(errors).strip()}")
            ok(None not in results(calm).values() and checkpoint_step(calm) == STEPS, f"{what}: and leaves adapter and checkpoint")
            rounds = Rounds(training, folder, calm, lives, rng)
            share = ROUNDS // 2 if packed else ROUNDS - ROUNDS // 2
            order = [(v, signal.SIGKILL) for v in range(len(PROGRAMS))] + [(0, signal.SIGTERM)]
            for turn in range(packed * (ROUNDS - share), 9 * ROUNDS):  # who was done already was not killed
                if rounds.kills == share: break
                rounds.kill(*order[turn % len(order)])
            rounds.end()
            ok(not rounds.wrong and rounds.kills == share, f"{what}: after {rounds.kills} kills {rounds.finished} runs are the undisturbed one (seed {SEED}) {rounds.wrong}")
    return done()


sys.exit(main())
