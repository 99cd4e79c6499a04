#!/usr/bin/env python3
"""Writes generate.json: what transformers continues prompts with, greedily, on the tiny decoders of this folder (f32).

Every token comes from a forward pass over all tokens before it, without a cache: {model: [{prompt, ids, logprob}]}.
Prompts are drawn anew until no step's two likeliest tokens are closer than 1e-3, so that rounding cannot swap them.
Needs torch and transformers.
"""
import json
import pathlib

import torch
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
MODELS = ["llama", "llama-gqa-tied", "llama3-rope", "mistral", "mistral-window", "qwen2", "qwen3", "gemma", "gptj"]
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


if __name__ == "__main__":
    main()
