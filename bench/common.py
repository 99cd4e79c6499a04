"""What the benchmarks share: where things are, the machine's peak, texts.

environment: BUILD (build), PEERS (a Python that has the peers: `make peers`), THREADS
"""
import os, subprocess, sys

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
BUILD = os.path.realpath(os.environ.get("BUILD", os.path.join(ROOT, "build")))
PEERS = os.environ.get("PEERS", os.path.join(BUILD, "peers", "bin", "python"))
THREADS = os.environ.get("THREADS", str(len(os.sched_getaffinity(0))))
SMOLLM2 = os.path.join(ROOT, "models", "SmolLM2-135M-Instruct.gguf")
os.environ["PATH"] = os.path.join(BUILD, "bin") + os.pathsep + os.environ["PATH"]


def have_peers():
    if os.path.exists(PEERS):
        return True
    print("bench: no peers to compare with: `make peers` installs them (several GB), or set PEERS", file=sys.stderr)
    return False


def peak():
    """GFLOP/s of f32 products that the machine reaches, measured once."""
    if not hasattr(peak, "value"):
        out = subprocess.run([os.path.join(BUILD, "bench", "peak"), THREADS], capture_output=True, check=True)
        peak.value = float(out.stdout)
    return peak.value


def corpus(folder, rows):
    """The path of package descriptions as JSONL."""
    path = os.path.join(folder, f"texts-{rows}.jsonl")
    with open(path, "w", encoding="utf-8") as f:
        subprocess.run(f"scripts/corpus {rows} {folder}/apt", shell=True, cwd=ROOT, stdout=f, check=True)
    return path
