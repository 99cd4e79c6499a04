"""What `step` and `merge` leave behind, loaded in Python: PEFT, transformers, sentence-transformers and LLM2Vec give the
vectors of the programs. The Python examples of README.md are run as they stand there.

PEFT loads what `llara all` leaves, too: an adapter with rows of tokens, and the one on top of it; and what `nv-embed stage1`
leaves, whose latents go behind its states by NV-Embed's formulas.

Needs torch, transformers, peft and sentence-transformers, here or in build/peers (`make peers`); otherwise it is skipped.
LLM2Vec pins old versions of transformers: with LLM2VEC set to a Python that has it (0.2.3 with transformers 4.44 works) it
is the package, without a class that loads and pools in the order that LLM2Vec documents.
"""
import importlib.util, json, os, re, shutil, subprocess, sys, tempfile, types
from tap import ok, done

REPO = os.environ["REPO"]
NEEDED = ("torch", "transformers", "peft", "sentence_transformers", "msgpack", "xxhash")


def find_python():
    """Goes on in the Python that has what is needed; or skips."""
    if all(map(importlib.util.find_spec, NEEDED)): return
    peers = os.environ.get("PEERS", os.path.join(REPO, "build", "peers", "bin", "python"))
    probe = f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {NEEDED!r})))"
    if os.path.exists(peers) and os.path.realpath(peers) != os.path.realpath(sys.executable) \
            and subprocess.run([peers, "-c", probe]).returncode == 0:
        os.execv(peers, [peers, *sys.argv])
    print("ok 1 - loading in Python # SKIP no torch, transformers, peft, sentence-transformers: make peers\n1..1")
    sys.exit(0)


find_python()
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_MODULES_CACHE"] = cache = tempfile.mkdtemp() # of the code that comes with an adapter
import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer
from peft import PeftModel
from sentence_transformers import SentenceTransformer
from safetensors.torch import load_file
from training import BIN, stream
sys.path.insert(0, os.path.join(REPO, "tests", "golden"))
from make_nv_embed import C, D, HEADS, LATENTS, attend

TEXTS = ["a text", "another", "How far is it to the next station, and when does the last train leave?"]
BOUND = 1e-5 # of the largest value


def shell(command):
    """The programs in bash, in the current folder; what they print."""
    env = {**os.environ, "PATH": BIN + os.pathsep + os.environ["PATH"]}
    return subprocess.run(["bash", "-euo", "pipefail", "-c", command], env=env, stdout=subprocess.PIPE, check=True).stdout


def column(command, name):
    """A column of the stream that a pipeline prints, rows in the order of the texts."""
    with tempfile.TemporaryFile() as f:
        f.write(shell(command))
        f.seek(0)
        batches = [r["columns"] for r in stream.read(f) if r["kind"] == "batch"]
    assert len(batches) == 1 # so few texts are one frame, in their order
    return batches[0][name]


def near(got, want, what):
    off = np.abs(np.asarray(got) - want).max() / np.abs(want).max()
    ok(np.shape(got) == want.shape and off <= BOUND, f"{what}: {off:.1e} of the largest value off")


def hidden(model, rows):
    with torch.no_grad():
        return np.concatenate([model(input_ids=torch.tensor(r)[None].long(), use_cache=False).last_hidden_state[0] for r in rows])


# ---- the tiny decoder, trained ----

def copy_golden(name, folder):
    golden = os.path.join(REPO, "tests", "golden", name)
    os.mkdir(folder)
    for file in ("config.json", "model.safetensors"): shutil.copy(os.path.join(golden, file), folder)


def make_base():
    """A decoder of two layers with a tokenizer that, as the default model's, adds no token before the text."""
    copy_golden("llama", "base")
    with open(os.path.join(REPO, "tests", "pipelines", "tokenizer.json")) as f: tokenizer = json.load(f)
    tokenizer["post_processor"] = None
    merges = tokenizer["model"]["merges"] # as libraries of LLM2Vec's age read them, too
    tokenizer["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in merges]
    with open("base/tokenizer.json", "w") as f: json.dump(tokenizer, f)
    with open("base/tokenizer_config.json", "w") as f:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>",
                   "model_input_names": ["input_ids", "attention_mask"]}, f)
    with open("texts.txt", "w") as f: f.write("\n".join(TEXTS) + "\n")


def train():
    shell(f"""mix {REPO}/examples/corpus.jsonl --batch 8 --steps 2 | tok -m base --max-len 64 -q | mask simcse |
        step -q -m base --attention bi --objective infonce --pool mean --attention-dropout 0.3 --lora r=4,alpha=8 \\
            --lr 1e-2 --schedule constant --out run
        merge -m base --out exported
        merge -m base --adapter run --out merged
        tok -m base --lines texts.txt > ids.vp""")


# ---- what loads it ----

class DocumentedLLM2Vec:
    """LLM2Vec's from_pretrained and encode: base with attention to both sides, adapter on top, pooling and length of
    llm2vec_config.json beside the adapter, else the base; padded on the left; with skip_instruction only the tokens of the
    text itself are pooled, here all of them, as nothing stands before it; vectors keep their length."""

    @classmethod
    def from_pretrained(cls, base_model_name_or_path, peft_model_name_or_path=None):
        self = cls()
        self.tokenizer = AutoTokenizer.from_pretrained(base_model_name_or_path)
        self.tokenizer.pad_token, self.tokenizer.padding_side = self.tokenizer.eos_token, "left"
        self.model = AutoModel.from_pretrained(base_model_name_or_path)
        self.model.config.is_causal = False
        if peft_model_name_or_path: self.model = PeftModel.from_pretrained(self.model, peft_model_name_or_path)
        with open(os.path.join(peft_model_name_or_path or base_model_name_or_path, "llm2vec_config.json")) as f:
            self.settings = json.load(f)
        return self

    def encode(self, sentences):
        assert self.settings["pooling_mode"] == "mean"
        batch = self.tokenizer(sentences, return_tensors="pt", padding=True, truncation=True, max_length=self.settings["max_length"])
        with torch.no_grad(): states = self.model.eval()(**batch).last_hidden_state
        return torch.stack([h[-n:].mean(0) for h, n in zip(states, batch["attention_mask"].sum(-1))])


def examples():
    """The Python examples of README.md."""
    with open(os.path.join(REPO, "README.md"), encoding="utf-8") as f: text = f.read()
    return re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)


def run_example(code):
    if "llm2vec" in code and os.environ.get("LLM2VEC"):
        run = subprocess.run([os.environ["LLM2VEC"], "-c", code + "\nprint(vectors.tolist())"], stdout=subprocess.PIPE, check=True)
        return {"vectors": json.loads(run.stdout.splitlines()[-1])}
    names = {}
    exec(code, names)
    return names


def test_adapter():
    ids = AutoTokenizer.from_pretrained("base")(TEXTS)["input_ids"]
    near(np.concatenate(ids), column("cat ids.vp", "ids"), "transformers' tokens are tok's")
    want = column("fwd -m base --adapter run < ids.vp", "hidden")
    plain = column("fwd -m base --attention bi < ids.vp", "hidden")
    ok(np.abs(want - plain).max() > 1e-3 * np.abs(plain).max(), "the adapter changes what comes out")
    for base in ("base", "exported"):
        model = AutoModel.from_pretrained(base)
        model.config.is_causal = False
        near(hidden(PeftModel.from_pretrained(model, "run").eval(), ids), want, f"PEFT on '{base}': hidden states")


def test_sentence_transformers(want):
    near(SentenceTransformer("run", trust_remote_code=True).encode(TEXTS), want, "SentenceTransformer('run'): vectors")
    try:
        SentenceTransformer("run")
        ok(False, "without trust_remote_code an adapter with attention to both sides is an error")
    except Exception as e:
        ok("trust_remote_code" in str(e), f"without trust_remote_code an adapter with attention to both sides is an error: {e!r:.200}")


def test_merged(want):
    near(column("tok -m merged --lines texts.txt | fwd | pool", "emb"), want, "merged: vectors of the programs")
    near(hidden(AutoModel.from_pretrained("merged").eval(), AutoTokenizer.from_pretrained("merged")(TEXTS)["input_ids"]),
         column("tok -m merged --lines texts.txt | fwd", "hidden"), "merged, in transformers: hidden states")
    near(SentenceTransformer("merged").encode(TEXTS), want, "merged, in sentence-transformers: vectors")


def test_examples(want):
    package = "LLM2Vec" if os.environ.get("LLM2VEC") else "LLM2Vec's documented order"
    sys.modules["llm2vec"] = types.SimpleNamespace(LLM2Vec=DocumentedLLM2Vec)
    codes = examples()
    ok(len(codes) == 3, "README.md has three examples in Python")
    for code, what in zip(codes, ("PEFT", "sentence-transformers", package)):
        vectors = np.asarray(run_example(code)["vectors"])
        near(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), want[: len(vectors)], f"README.md, {what}: vectors")


# ---- what pipelines make ----

def make_recipes():
    """llara all on a decoder with tied embeddings, and nv-embed, with few steps that go far."""
    copy_golden("llama-gqa-tied", "tied")
    shutil.copy(os.path.join(REPO, "tests", "pipelines", "tokenizer.json"), "tied")
    with open("tied/tokenizer_config.json", "w") as f: json.dump({"bos_token": "<s>", "eos_token": "</s>"}, f)
    with open("rows.jsonl", "w") as f:
        for i in range(8): print(json.dumps({"query": f"item {i}", "positive": f"number {i}", "negative": ["none", "no"]}), file=f)
    shell(f"""{REPO}/pipelines/llara all -m tied -o llara --text {REPO}/examples/corpus.jsonl --words 8 --pairs rows.jsonl \
            --mine given --steps 2 --batch 4 --length 130 --lr 1e-2 -q
        {REPO}/pipelines/nv-embed stage1 -m base -o nv rows.jsonl --latent latents={LATENTS},heads={HEADS},width={D},inner={4 * C} \\
            --negatives 1 --steps 2 --batch 4 --lr 1e-2 -q""")


def pooled(model, ids, layer=lambda states: states):
    """Vectors of length 1 of the rows of a stream: the mean of what `layer` makes of the kept tokens' hidden states."""
    cu, rows, keep = (column(f"cat {ids}", name) for name in ("cu", "ids", "keep"))
    states = layer(torch.tensor(hidden(model.eval(), [rows[a:b] for a, b in zip(cu, cu[1:])])))
    means = torch.stack([states[a:b][torch.tensor(keep[a:b]).bool()].mean(0) for a, b in zip(cu, cu[1:])])
    return torch.nn.functional.normalize(means, dim=1).detach()


def test_llara():
    shell("tok -m llara/base --chat llara --lines texts.txt > llara.vp")
    fwd = "fwd -m llara/base {} < llara.vp | pool"
    want = column(fwd.format("--adapter llara/pretrain --adapter llara/finetune"), "emb")
    plain = column(fwd.format("--adapter llara/finetune"), "emb")
    ok(np.abs(want - plain).max() > 1e-3 * np.abs(plain).max(), "llara: the rows of its tokens and its adapter change the vectors")
    pretrained = PeftModel.from_pretrained(AutoModel.from_pretrained("llara/base"), "llara/pretrain")
    trained = pretrained.peft_config["default"].trainable_token_indices
    ok(trained, "llara: PEFT finds rows of tokens")
    model = PeftModel.from_pretrained(pretrained.merge_and_unload(), "llara/finetune")
    near(pooled(model, "llara.vp"), want, "llara all in PEFT: vectors")


def test_nv_embed():
    shell("tok -m base --adapter nv --query --instruction 'Find it.' --lines texts.txt > nv.vp")
    want = column("fwd < nv.vp | pool", "emb")
    decoder = AutoModel.from_pretrained("base")
    decoder.config.is_causal = False
    latents = load_file("nv/latent_attention_model.safetensors")
    near(pooled(PeftModel.from_pretrained(decoder, "nv"), "nv.vp", lambda states: attend(latents, states)), want,
         "nv-embed in PEFT, its latents in PyTorch: vectors")


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make_base()
        train()
        want = column("fwd -m base --adapter run < ids.vp | pool", "emb")
        test_adapter()
        test_sentence_transformers(want)
        test_merged(want)
        test_examples(want)
        make_recipes()
        test_llara()
        test_nv_embed()
        os.chdir("/")
    shutil.rmtree(cache)
    return done()


sys.exit(main())
