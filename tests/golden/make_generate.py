#!/usr/bin/env python3
"""Greedy continuations by transformers, in f32.

make_generate.py writes generate.json, of the tiny decoders of this folder: {model: [{prompt, ids, logprob}]}. Every token
comes from a forward pass over all tokens before it, without a cache. Prompts are drawn anew until no step's two likeliest
tokens are closer than 1e-3, so that rounding cannot swap them.

make_generate.py FOLDER, what `merge` makes of SmolLM2-135M-Instruct.gguf, writes smollm2.generate.jsonl, of the prompts
and conversations that it holds: 64 tokens at most.

Needs torch and transformers.
"""
import json
import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = pathlib.Path(__file__).parent
MODELS = ["llama", "llama-gqa-tied", "llama3-rope", "mistral", "mistral-window", "qwen2", "qwen3", "gemma", "gptj", "mixtral"]
LENGTHS, TOKENS, VOCAB, MARGIN = (1, 7, 45), 24, 320, 1e-3


def continue_greedily(model, prompt):
    ids, new, logprob, margin = list(prompt), [], [], []
    for _ in range(TOKENS):
        with torch.no_grad():
            z = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        best = z.topk(2).values
        margin.append((best[0] - best[1]).item())
        new.append(z.argmax().item())
        logprob.append(round(torch.log_softmax(z, -1)[new[-1]].item(), 7))
        ids.append(new[-1])
    return new, logprob, min(margin)


def main():
    out = {}
    for name in MODELS:
        model = AutoModelForCausalLM.from_pretrained(HERE / name, dtype=torch.float32).eval()
        rng = torch.Generator().manual_seed(1)
        out[name] = []
        for n in LENGTHS:
            while True:
                prompt = torch.randint(3, VOCAB, (n,), generator=rng).tolist()
                ids, logprob, margin = continue_greedily(model, prompt)
                if margin > MARGIN:
                    break
            out[name].append({"prompt": prompt, "ids": ids, "logprob": logprob})
    rows = ",\n".join(
        f' "{name}": [\n' + ",\n".join("  " + json.dumps(row, separators=(",", ":")) for row in rows) + "\n ]"
        for name, rows in out.items())
    (HERE / "generate.json").write_text("{\n" + rows + "\n}\n")


def continue_smollm2(folder):
    path = HERE / "smollm2.generate.jsonl"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    lines = []
    for line in path.read_text().splitlines():
        row = {k: v for k, v in json.loads(line).items() if k in ("id", "prompt", "messages")}
        text = row.get("prompt") or tokenizer.apply_chat_template(row["messages"], tokenize=False,
                                                                  add_generation_prompt=True)
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False,
                                 pad_token_id=0, output_scores=True, return_dict_in_generate=True)
        new = out.sequences[0, ids.shape[1]:].tolist()
        row["ids"] = new
        row["logprob"] = [round(torch.log_softmax(z[0], -1)[t].item(), 5) for z, t in zip(out.scores, new)]
        row["answer"] = tokenizer.decode(new, skip_special_tokens=True)
        lines.append(json.dumps(row, ensure_ascii=False, separators=(",", ":")))
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        continue_smollm2(sys.argv[1])
    else:
        main()
