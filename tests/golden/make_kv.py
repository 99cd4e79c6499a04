#!/usr/bin/env python3
"""Keys and values of tiny models, as transformers keeps them in its cache, into tests/golden/kv.safetensors.

usage: make_kv.py          needs: torch, transformers >= 5, safetensors

NAME.causal.k, .v and NAME.bidir.k, .v: [L, T, G d] in f32, keys after RoPE, of the first ROWS sequences of
NAME/golden.safetensors (T tokens packed end to end). The models differ in what happens to keys: llama3-rope scales
RoPE, qwen3 normalises keys before it, gptj rotates a part of them in pairs.
"""
import os
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

HERE = os.path.dirname(os.path.abspath(__file__))
ROWS = 3


def mask(n, bidir):
    seen = torch.ones(n, n, dtype=torch.bool) if bidir else torch.ones(n, n).tril().bool()
    return torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]


def packed(heads):
    """[L][rows] of [1, G, n, d] to [L, T, G d]."""
    return torch.stack([torch.cat([x[0].transpose(0, 1).flatten(1) for x in layer]) for layer in heads]).contiguous()


out = {}
for name in ("llama3-rope", "qwen3", "gptj"):
    folder = os.path.join(HERE, name)
    golden = load_file(os.path.join(folder, "golden.safetensors"))
    cu = golden["cu"].tolist()
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    for bidir in (False, True):
        caches = []
        for a, b in zip(cu[:ROWS], cu[1:]):
            with torch.no_grad():
                ids = golden["ids"][a:b].long()[None]
                caches.append(model(input_ids=ids, attention_mask=mask(b - a, bidir), use_cache=True).past_key_values)
        layers = range(len(caches[0].layers))
        prefix = f"{name}.{'bidir' if bidir else 'causal'}"
        out[prefix + ".k"] = packed([[c.layers[i].keys for c in caches] for i in layers])
        out[prefix + ".v"] = packed([[c.layers[i].values for c in caches] for i in layers])
save_file(out, os.path.join(HERE, "kv.safetensors"))
