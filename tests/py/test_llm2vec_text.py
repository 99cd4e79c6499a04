#!/usr/bin/env python3
"""What tok makes of texts for LLM2Vec's models, against the rules written out: the text cut at words, instruction, chat,
end, ids and keep. The tokenizer is one token a byte, so that every count is plain.

environment: VP_BIN, REPO (as tests/run sets them)
"""
import itertools, json, os, random, re, shutil, subprocess, sys, tempfile
from tap import done, ok

GOLDEN = os.path.join(os.environ["REPO"], "tests", "golden")
BYTES = os.path.join(os.environ["REPO"], "tests", "tokenizers", "bytes.json")
SPECIALS = ["<s>", "</s>", "<bos>", "<eos>", "<|eot_id|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<start_of_turn>",
            "<end_of_turn>", "<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>"]
FIRST = 260
LLAMA3 = ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>")
MODELS = [  # architecture, name, what stands around, what follows for EOS pooling
    ("llama", "princeton-nlp/Sheared-LLaMA-1.3B", None, " </s>"),
    ("llama", "meta-llama/Llama-2-7b-chat-hf", ("[INST] ", " [/INST]"), " </s>"),
    ("mistral", "mistralai/Mistral-7B-Instruct-v0.2", ("[INST] ", " [/INST]"), " </s>"),
    ("llama", "meta-llama/Meta-Llama-3-8B-Instruct", LLAMA3, None),
    ("llama", "meta-llama/Meta-Llama-3-8B", None, "<|end_of_text|>"),
    ("qwen2", "Qwen/Qwen2-7B-Instruct", ("<|im_start|>user\n", "<|im_end|>"), "<|endoftext|>"),
    ("gemma", "google/gemma-2-9b-it", ("<bos><start_of_turn>user\n", "<end_of_turn>"), "<eos>"),
]
SETTINGS = [  # pooling_mode, instruction, max_length, doc_max_length
    ("mean", "", 512, 400), ("mean", " Find what is alike:", 120, 30), ("eos_token", "", 64, 9), ("eos_token", "Find: ", 100, 100)]


def byte_letters():
    """The letters by which byte-level vocabularies spell bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(others)}}


with open(BYTES) as file:
    tokenizer = json.load(file)
IDS = {byte: tokenizer["model"]["vocab"][letter] for byte, letter in byte_letters().items()}


def tokenize(text):
    ids = []
    for part in re.split("(" + "|".join(map(re.escape, SPECIALS)) + ")", text):
        ids += [FIRST + SPECIALS.index(part)] if part in SPECIALS else [IDS[b] for b in part.encode()]
    return ids


def cut(text, limit, most):
    while (n := min(len(tokenize(text)), most)) > limit:
        words = text.split()
        text = " ".join(words[: int(len(words) * (limit / n))])
    return text


def prepare(text, instruction, around, end, max_length, doc_max_length):
    """ids, keep, and whether the text was cut. NUL stands between what is not pooled and what is."""
    short = cut(text, doc_max_length, max_length)
    whole = (instruction.strip() + " " if instruction else "") + "\0" + short
    if around:
        whole = around[0] + whole.strip() + around[1]
    if end:
        whole = whole.strip() + end
    before, after = whole.split("\0")
    ids = [FIRST, *tokenize(before), *tokenize(after)]
    keep = [0] * (1 + len(tokenize(before))) + [1] * len(tokenize(after))
    return ids[:max_length], keep[:max_length], short != text or len(ids) > max_length


def write_model(folder, arch, name, pooling, max_length, doc_max_length):
    shutil.copytree(os.path.join(GOLDEN, arch), folder)
    with open(os.path.join(folder, "config.json")) as file:
        config = json.load(file)
    files = {"config.json": {**config, "_name_or_path": name, "max_position_embeddings": 1024}, "tokenizer.json": with_specials(),
             "llm2vec_config.json": {"pooling_mode": pooling, "max_length": max_length, "doc_max_length": doc_max_length,
                                     "skip_instruction": True}}
    for file, content in files.items():
        path = os.path.join(folder, file)
        if os.path.exists(path):
            os.remove(path)
        with open(path, "w") as out:
            json.dump(content, out)


def with_specials():
    added = [{"id": FIRST + i, "content": s, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, s in enumerate(SPECIALS)]
    bos = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
           "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [FIRST], "tokens": ["<s>"]}}}
    return {**tokenizer, "added_tokens": tokenizer["added_tokens"] + added, "post_processor": bos}


def texts(rng):
    blanks = [" ", " ", " ", "  ", "\n", "\t", "\u00a0", "\u3000", "\x1f"]
    result = ["", " ", " \n", "word", " indented", "blank at the end \n", "x" * 700, "x" * 450 + " y" * 30]
    for _ in range(40):
        words = ["".join(rng.choices("abc\u00e9\u4e2d\U0001f600", k=rng.randrange(1, 12))) for _ in range(rng.randrange(1, 150))]
        result.append(rng.choice(["", " "]) + "".join(w + rng.choice(blanks) for w in words))
    return result


def run(program, *args, text):
    path = os.path.join(os.environ["VP_BIN"], program)
    result = subprocess.run([path, *args], input=text, capture_output=True, check=False)
    if result.returncode:
        print("#", program, *args, result.stderr.decode())
    return result.stdout


def compare(folder, rng, arch, name, around, end, pooling, instruction, max_length, doc_max_length):
    write_model(folder, arch, name, pooling, max_length, doc_max_length)
    inputs = texts(rng)
    lines = "".join(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(inputs)).encode()
    stream = run("tok", "-m", folder, "-q", *(["--instruction", instruction] if instruction else []), text=lines)
    rows = [json.loads(line) for line in run("peek", "--jsonl", "--columns", "id,ids,keep", "-", text=stream).splitlines()]
    summary = run("peek", "-", text=stream).decode()
    want = [prepare(t, instruction, around, end if pooling == "eos_token" else None, max_length, doc_max_length) for t in inputs]
    wrong = [(r["id"], inputs[int(r["id"])]) for r in rows if (r["ids"], r["keep"]) != want[int(r["id"])][:2]]
    cuts = sum(w[2] for w in want)
    what = f"{name}, {pooling}, {instruction!r}, {max_length}, {doc_max_length}"
    ok(len(rows) == len(inputs) and not wrong, f"{what}: {len(rows)} rows" + f", wrong {wrong[:2]}" * bool(wrong))
    ok(re.search(rf"\btruncated +{cuts}\n", summary), f"{what}: {cuts} texts were cut")


rng = random.Random(1)
with tempfile.TemporaryDirectory() as scratch:
    for number, (model, setting) in enumerate(itertools.product(MODELS, SETTINGS)):
        compare(os.path.join(scratch, str(number)), rng, *model, *setting)
sys.exit(done())
