#!/usr/bin/env python3
"""Runs one peer on one piece of work and prints one JSON line {"seconds": best of N, ...}.

usage: peers.py WORK CORPUS MODEL [THREADS]     needs: torch, sentence-transformers, transformers, gguf, tokenizers, faiss-cpu, xllamacpp

Loading and one warm-up pass are not counted: a peer is timed in its best state. CORPUS is JSONL with `title` and `text`.
"""
import functools, json, os, re, sys, time

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
WORK, CORPUS, MODEL = sys.argv[1:4]
THREADS = int(sys.argv[4]) if len(sys.argv) > 4 else os.cpu_count()
MAX_LEN = 256


def texts():
    with open(CORPUS, encoding="utf-8") as f:
        for line in f:
            r = json.loads(line)
            yield (r["title"] + " " if r.get("title") else "") + r["text"]


def best(run, times=3):
    took = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        took.append(time.perf_counter() - start)
    return min(took)


def tok_minilm():
    from tokenizers import Tokenizer

    t = Tokenizer.from_file(os.path.join(MODEL, "tokenizer.json"))
    t.no_padding()
    t.enable_truncation(MAX_LEN)
    corpus = list(texts())
    t.encode_batch(corpus[:100])
    seconds = best(lambda: t.encode_batch(corpus))
    return {"seconds": seconds, "peer": "tokenizers (Rust)"}


def embed_minilm(kind="float32"):
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(THREADS)
    model = SentenceTransformer(MODEL, device="cpu", model_kwargs={"dtype": getattr(torch, kind)})
    corpus = list(texts())
    model.encode(corpus[:64], batch_size=32)
    seconds = best(lambda: model.encode(corpus, batch_size=32), 2)
    return {"seconds": seconds, "peer": f"sentence-transformers, {kind}"}


def embed_smollm2(kind="float32"):
    import torch
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(THREADS)
    folder, name = os.path.split(MODEL)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    tokenizer.pad_token = tokenizer.eos_token
    model = AutoModel.from_pretrained(folder, gguf_file=name, dtype=getattr(torch, kind)).eval()
    corpus = sorted(texts(), key=len, reverse=True)

    @torch.no_grad()
    def run(some):
        for i in range(0, len(some), 16):
            batch = tokenizer(some[i : i + 16], padding=True, truncation=True, max_length=MAX_LEN, return_tensors="pt")
            h = model(**batch, use_cache=False).last_hidden_state
            w = (batch["attention_mask"].cumsum(1) * batch["attention_mask"]).float()
            torch.nn.functional.normalize((h * w[..., None]).sum(1) / w.sum(1, keepdim=True), dim=-1)

    run(corpus[:16])
    return {"seconds": best(lambda: run(corpus), 1), "peer": f"transformers (PyTorch), {kind}"}


def rewrite(path, kind):
    """The GGUF file MODEL with its matrices in BF16 or Q8_0."""
    import gguf

    old = gguf.GGUFReader(MODEL)
    new = gguf.GGUFWriter(path, old.fields["general.architecture"].contents())
    for name, field in old.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            new.add_key_value(name, field.contents(), field.types[0], sub_type=sub_type)
    for t in old.tensors:
        to = kind if len(t.shape) == 2 else gguf.GGMLQuantizationType.F32
        new.add_tensor(t.name, gguf.quants.quantize(gguf.quants.dequantize(t.data, t.tensor_type), to), raw_dtype=to)
    new.write_header_to_file()
    new.write_kv_data_to_file()
    new.write_tensors_to_file()
    new.close()


def decode(kind, batch):
    """Seconds a step of llama.cpp's server, `batch` prompts of 16 tokens together: 128 steps less those of a prompt alone.
    With one thread times are of the processor, as bench/decode's."""
    import gguf, tempfile, xllamacpp
    from concurrent.futures import ThreadPoolExecutor

    clock = time.process_time if THREADS == 1 else time.perf_counter
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(batch) as pool:
        params = xllamacpp.CommonParams()
        params.model.path = os.path.join(folder, "model.gguf")
        rewrite(params.model.path, gguf.GGMLQuantizationType[kind])
        params.n_ctx, params.n_parallel, params.cache_prompt, params.warmup = 256 * batch, batch, False, True
        params.cache_ram_mib = params.n_gpu_layers = 0
        for cpu in (params.cpuparams, params.cpuparams_batch):
            cpu.n_threads, cpu.poll = THREADS, 0
        server = xllamacpp.Server(params)

        def run(tokens):
            def answer(b):
                prompt = [100 + (i * 7919 + b) % 5000 for i in range(16)]
                got = server.handle_completions({"prompt": prompt, "max_tokens": tokens, "ignore_eos": True})
                if got["usage"]["completion_tokens"] != tokens:
                    raise SystemExit(f"an answer of {got['usage']['completion_tokens']} tokens, not {tokens}")

            start = clock()
            list(pool.map(answer, range(batch)))
            return clock() - start

        run(1)
        seconds = min(run(129) - run(1) for _ in range(3)) / 128
    simd = re.findall(r"(AVX2|AVX512|AVX512_VNNI|AVX512_BF16) = 1", xllamacpp.get_system_info())
    return {"seconds": seconds, "peer": f"llama.cpp {kind}, built for {simd[-1] if simd else 'any CPU'}"}


def search(queries):
    import faiss, numpy as np

    faiss.omp_set_num_threads(THREADS)
    rows, q = np.load(CORPUS), np.load(MODEL)[:queries]
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    index.search(q, 10)
    return {"seconds": best(lambda: index.search(q, 10), 5), "peer": "faiss IndexFlatIP"}


WORKS = {
    "tok-minilm": tok_minilm,
    "embed-minilm": embed_minilm,
    "embed-minilm-bf16": functools.partial(embed_minilm, "bfloat16"),
    "embed-smollm2": embed_smollm2,
    "embed-smollm2-bf16": functools.partial(embed_smollm2, "bfloat16"),
    **{f"decode-{t}-{b}": functools.partial(decode, k, b) for t, k in (("bf16", "BF16"), ("i8", "Q8_0")) for b in (1, 8)},
    "search-1": lambda: search(1),
    "search-256": lambda: search(256),
}
print(json.dumps(WORKS[WORK]()))
