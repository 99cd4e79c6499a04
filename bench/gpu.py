#!/usr/bin/env python3
"""What scripts/gpu-check needs beside the programs; numpy, msgpack and xxhash, and for `transformers` torch.

    gpu.py model SHAPE DIR                     a model of SHAPE with random weights: tiny, smollm2 or mistral
    gpu.py ids DIR TOKENS LOW HIGH [reversed]  a stream of rows of LOW to HIGH tokens for the model in DIR
    gpu.py compare A B BOUND                   |A - B| / |B| of two streams' embeddings; exit 1 above BOUND
    gpu.py cosine A B LEAST                    mean cosine of the rows of two streams' embeddings, each less its stream's mean
    gpu.py same A B [reversed]                 exit 1 unless the embeddings are the same bytes
    gpu.py transformers DIR TOKENS LOW HIGH    tokens a second of transformers with sdpa, sorted and padded
    gpu.py steps DIR STEPS ROWS LENGTH         a stream of steps of ROWS rows of LENGTH tokens, for mask generate
    gpu.py speed LOG                           tokens a second of a run's log, the median step
    gpu.py peft DIR STEPS ROWS LENGTH [recompute]  tokens a second and GiB of the same steps with PEFT and sdpa
"""
import json, os, sys, time
import numpy as np
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "examples"))
sys.dont_write_bytecode = True

# width, layers, heads, groups, feed-forward, vocabulary, tied
SHAPES = {"tiny": (64, 2, 4, 2, 96, 300, True), "smollm2": (576, 30, 9, 3, 1536, 49152, True),
          "mistral": (4096, 32, 32, 8, 14336, 32000, False)}

def tensors(c, layers, h, g, f, v, tied):
    """Names and shapes; the output matrix is left out, which embedding does not use."""
    d = c // h
    yield "model.embed_tokens.weight", (v, c)
    for i in range(layers):
        at = f"model.layers.{i}."
        for name, shape in (("self_attn.q_proj", (c, c)), ("self_attn.k_proj", (g * d, c)), ("self_attn.v_proj", (g * d, c)),
                            ("self_attn.o_proj", (c, c)), ("mlp.gate_proj", (f, c)), ("mlp.up_proj", (f, c)),
                            ("mlp.down_proj", (c, f)), ("input_layernorm", (c,)), ("post_attention_layernorm", (c,))):
            yield at + name + ".weight", shape
    yield "model.norm.weight", (c,)

def make_model(shape, folder):
    c, layers, h, g, f, v, tied = SHAPES[shape]
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": c, "num_hidden_layers": layers,
                   "num_attention_heads": h, "num_key_value_heads": g, "intermediate_size": f, "vocab_size": v, "head_dim": c // h,
                   "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
                   "tie_word_embeddings": True, "torch_dtype": "bfloat16"}, file)
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, s in tensors(*SHAPES[shape]):
        size = 2 * int(np.prod(s))
        header[name], at = {"dtype": "BF16", "shape": list(s), "data_offsets": [at, at + size]}, at + size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # one pool of random numbers, from another place in it for every tensor
    pool = np.random.default_rng(7).standard_normal(1 << 24, "f4")
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        scaled = {}
        for n, (name, s) in enumerate(tensors(*SHAPES[shape])):
            left = int(np.prod(s))
            if len(s) == 1:
                file.write(np.full(left, 0x3f80, "<u2").tobytes())
                continue
            if s[1] not in scaled: scaled[s[1]] = ((pool * s[1] ** -0.5).view("<u4") >> 16).astype("<u2")
            bits, start = scaled[s[1]], n * 7919 * 64 % (1 << 23)
            while left:
                take = min(left, len(bits) - start)
                file.write(bits[start:start + take].data)
                left, start = left - take, 0

def rows_of(folder, tokens, low, high):
    config, random = json.load(open(os.path.join(folder, "config.json"))), np.random.default_rng(11)
    rows = []
    while tokens > 0:
        n = min(int(random.integers(low, high + 1)), max(tokens, 1))
        rows.append(random.integers(0, config["vocab_size"], n).astype("i4"))
        tokens -= n
    return rows

def write_ids(folder, tokens, low, high, backwards):
    import stream
    rows = rows_of(folder, tokens, low, high)
    if backwards: rows.reverse()
    batches = [rows[i:i + 64] for i in range(0, len(rows), 64)]
    stream.write(sys.stdout.buffer, [{"ids": np.concatenate(b), "cu": np.cumsum([0] + [len(r) for r in b]),
                                      "id": [f"{n}.{i}" for i in range(len(b))]} for n, b in enumerate(batches)])

def embeddings(path):
    import stream
    with open(path, "rb") as file:
        return np.concatenate([r["columns"]["emb"] for r in stream.read(file) if r["kind"] == "batch"])

def compare(a, b, bound):
    a, b = embeddings(a).astype("f8"), embeddings(b).astype("f8")
    error = np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)
    print(f"{len(a)} rows, largest relative error {error.max():.1e}, allowed {bound:g}")
    return not (error.max() <= bound and len(a))

def cosine(a, b, least):
    a, b = (x - x.mean(0) for x in (embeddings(a).astype("f8"), embeddings(b).astype("f8")))
    each = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    print(f"mean-centred cosine {each.mean():.5f} ({least:g} wanted), the least of {len(a)} {each.min():.5f}")
    return not each.mean() >= least

def same(a, b, backwards):
    a, b = embeddings(a), embeddings(b)
    equal = len(a) > 0 and a.tobytes() == (b[::-1] if backwards else b).tobytes()
    print(f"{len(a)} rows, {'the same bytes' if equal else 'other bytes'}")
    return not equal

def run_transformers(folder, tokens, low, high, most=16384):
    import torch
    from transformers import AutoConfig, AutoModel
    config = AutoConfig.from_pretrained(folder)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = AutoModel.from_config(config, attn_implementation="sdpa").eval()
    rows = sorted(rows_of(folder, tokens, low, high), key=len)
    batches, batch = [], []
    for row in rows:
        if batch and (len(batch) + 1) * len(row) > most: batches, batch = batches + [batch], []
        batch.append(row)
    batches.append(batch)
    @torch.inference_mode()
    def embed(batch):
        ids, mask = np.zeros((len(batch), len(batch[-1])), "i8"), np.zeros((len(batch), len(batch[-1])), "i8")
        for i, row in enumerate(batch): ids[i, :len(row)], mask[i, :len(row)] = row, 1
        ids, mask = torch.from_numpy(ids).cuda(), torch.from_numpy(mask).cuda()
        hidden = model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return ((hidden * mask[..., None]).sum(1).float() / mask.sum(1, keepdim=True)).cpu()
    for batch in batches[-2:] + batches[:2]: embed(batch)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for batch in batches: embed(batch)
    torch.cuda.synchronize()
    print(f"{sum(map(len, rows)) / (time.perf_counter() - start):.0f}")

def write_steps(folder, steps, rows, length):
    import stream
    ids = np.stack(rows_of(folder, steps * rows * length, length, length)).reshape(steps, rows * length)
    out = sys.stdout.buffer
    out.write(stream.pack({"vecpipe": 1, "kind": "header", "model": {}, "encoder": {}, "columns": {}, "history": []}))
    for n in range(steps):
        columns = {"ids": ids[n], "cu": np.arange(rows + 1) * length, "row": np.arange(rows), "unit": np.arange(rows)}
        out.write(stream.pack({"kind": "batch", "seq": n, "step": n, "last": True, "rows": rows,
                               "columns": {k: stream.encode(k, v) for k, v in columns.items()}}))
    out.write(stream.pack({"kind": "end", "batches": steps}))

def speed(log):
    steps = [record for record in map(json.loads, open(log)) if record.get("event") == "step"]
    print(f"{np.median([step['tokens'] / max(step['seconds'], 1e-3) for step in steps[1:]]):.0f}")

def run_peft(folder, steps, rows, length, recompute):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="sdpa")
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    if recompute:
        base.gradient_checkpointing_enable()
        base.enable_input_require_grads()
    model = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules=names)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    times = []
    for batch in np.stack(rows_of(folder, steps * rows * length, length, length)).reshape(steps, rows, length):
        start = time.perf_counter()
        ids = torch.from_numpy(batch.astype("i8")).cuda()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    print(f"{rows * length / np.median(times[1:]):.0f} {torch.cuda.max_memory_allocated() / 2**30:.1f}")

def main(what, *args):
    if what == "model": return make_model(*args)
    if what == "ids": return write_ids(args[0], *map(int, args[1:4]), "reversed" in args)
    if what == "compare": return compare(args[0], args[1], float(args[2]))
    if what == "cosine": return cosine(args[0], args[1], float(args[2]))
    if what == "same": return same(args[0], args[1], "reversed" in args)
    if what == "steps": return write_steps(args[0], *map(int, args[1:]))
    if what == "speed": return speed(args[0])
    if what == "peft": return run_peft(args[0], *map(int, args[1:4]), "recompute" in args)
    if what == "transformers": return run_transformers(args[0], *map(int, args[1:4]))
    sys.exit(__doc__)

if __name__ == "__main__":
    if len(sys.argv) < 3: sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
