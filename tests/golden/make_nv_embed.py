#!/usr/bin/env python3
"""Write a tiny folder as NV-Embed is published, and what PyTorch computes with it, as reference values for tests.

usage: make_nv_embed.py GOLDEN_DIR [SEED]          needs: torch, transformers >= 5, safetensors (CPU is enough, f32 throughout)

GOLDEN_DIR/nv-embed/ gets config.json and model.safetensors (F16): GOLDEN_DIR/mistral's weights under embedding_model., and a
latent-attention layer of 24 latents, 3 heads of width 20 and an inner width of 4 C. golden.safetensors holds, for sequences packed end to
end (ids [T], cu [B+1], keep [T]):
  hidden [T,C]    last hidden state, attention to both sides
  emb [B,C]       mean over the kept tokens of what the layer makes of it, of length 1
  demb [B,C]      a gradient of emb, and from it
  dhidden [T,C], grad.<tensor>
The layer is written from its formulas (LayerNorm eps 1e-5, exact GELU, no mask):
  K|V = LN(A) W_kv^T,  x = h + concat_k softmax((LN(h) W_q^T)_k K_k^T / sqrt(d)) V_k W_o^T,  a|g = LN(x) W_1^T + b_1,
  y = x + (a * gelu(g)) W_2^T + b_2
"""
import json, os, sys
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import MistralConfig, MistralModel

LENGTHS = [9, 1, 30, 4, 17]
LATENTS, HEADS, D, C = 24, 3, 20, 64
PREFIX = "latent_attention_model."
CROSS, FEED = PREFIX + "cross_attend_blocks.0.", PREFIX + "cross_attend_blocks.1."


def layer():
    def linear(out, inputs): return (torch.rand(out, inputs) * 2 - 1) / inputs**0.5
    def near(value, n): return value + 0.2 * torch.randn(n)
    w = {PREFIX + "latents": torch.randn(LATENTS, C)}
    for name in (CROSS + "norm", CROSS + "norm_context", FEED + "norm"):
        w[name + ".weight"], w[name + ".bias"] = near(1, C), near(0, C)
    w[CROSS + "fn.to_q.weight"] = linear(HEADS * D, C)
    w[CROSS + "fn.to_kv.weight"] = linear(2 * HEADS * D, C)
    w[CROSS + "fn.to_out.weight"] = linear(C, HEADS * D)
    w[FEED + "fn.net.0.weight"], w[FEED + "fn.net.0.bias"] = linear(8 * C, C), linear(8 * C, C)[:, 0].clone()
    w[FEED + "fn.net.2.weight"], w[FEED + "fn.net.2.bias"] = linear(C, 4 * C), linear(C, 4 * C)[:, 0].clone()
    return w


def attend(w, h):
    def norm(name, x): return F.layer_norm(x, (C,), w[name + ".weight"], w[name + ".bias"], 1e-5)
    def heads(x): return x.view(-1, HEADS, D).transpose(0, 1)
    k, v = (norm(CROSS + "norm_context", w[PREFIX + "latents"]) @ w[CROSS + "fn.to_kv.weight"].T).chunk(2, dim=1)
    q = norm(CROSS + "norm", h) @ w[CROSS + "fn.to_q.weight"].T
    p = torch.softmax(heads(q) @ heads(k).transpose(1, 2) / D**0.5, dim=-1)
    x = h + (p @ heads(v)).transpose(0, 1).reshape(-1, HEADS * D) @ w[CROSS + "fn.to_out.weight"].T
    value, gate = (norm(FEED + "norm", x) @ w[FEED + "fn.net.0.weight"].T + w[FEED + "fn.net.0.bias"]).chunk(2, dim=1)
    return x + (value * F.gelu(gate)) @ w[FEED + "fn.net.2.weight"].T + w[FEED + "fn.net.2.bias"]


def write_folder(golden, folder, decoder, latent):
    named = {"embedding_model." + k: v for k, v in decoder.items()}
    save_file({k: v.half().contiguous() for k, v in {**named, **latent}.items()}, os.path.join(folder, "model.safetensors"))
    with open(os.path.join(golden, "mistral", "config.json")) as f: text = json.load(f)
    text |= {"model_type": "bidir_mistral", "sliding_window": 4}
    sizes = {"model_type": "latent_attention", "num_latents_value": LATENTS, "num_cross_heads": HEADS, "cross_dim_head": D,
             "latent_dim": C, "hidden_dim": C, "output_normalize": True}
    config = {"architectures": ["NVEmbedModel"], "model_type": "nvembed", "add_eos": True, "add_pad_token": True, "hidden_size": C,
              "is_mask_instruction": True, "mask_type": "b", "padding_side": "right", "latent_attention_config": sizes,
              "text_config": text}
    with open(os.path.join(folder, "config.json"), "w") as f: json.dump(config, f, indent=2)


def hidden_of(model, ids):
    n = len(ids)
    seen = torch.zeros(1, 1, n, n)  # additive: everything is seen
    return model(input_ids=ids[None].long(), attention_mask=seen).last_hidden_state[0]


def main(golden, seed=1):
    torch.manual_seed(int(seed))
    torch.set_num_threads(1)
    folder = os.path.join(golden, "nv-embed")
    os.makedirs(folder, exist_ok=True)
    weights = load_file(os.path.join(golden, "mistral", "model.safetensors"))
    decoder = {k.removeprefix("model."): v.half().float() for k, v in weights.items() if not k.startswith("lm_head")}
    latent = {k: v.half().float() for k, v in layer().items()}
    write_folder(golden, folder, decoder, latent)
    config = MistralConfig.from_pretrained(os.path.join(golden, "mistral"), attn_implementation="eager", dtype="float32")
    model = MistralModel(config)
    model.load_state_dict(decoder)
    texts = [torch.randint(3, 320, (n,), dtype=torch.int32) for n in LENGTHS]
    with torch.no_grad(): hidden = torch.cat([hidden_of(model, t) for t in texts]).requires_grad_()
    keep = torch.cat([(torch.arange(n) >= n // 3).to(torch.uint8) for n in LENGTHS])
    for w in latent.values(): w.requires_grad_()
    y, rows, at = attend(latent, hidden), [], 0
    for n in LENGTHS:
        k = keep[at:at + n].float()[:, None]
        rows.append(F.normalize((y[at:at + n] * k).sum(0) / k.sum(), dim=0))
        at += n
    emb = torch.stack(rows)
    demb = torch.randn_like(emb)
    (emb * demb).sum().backward()
    cu = torch.tensor([0, *LENGTHS]).cumsum(0).int()
    save_file({"ids": torch.cat(texts), "cu": cu, "keep": keep.int(), "hidden": hidden.detach(), "emb": emb.detach(), "demb": demb,
               "dhidden": hidden.grad, **{"grad." + k: w.grad.contiguous() for k, w in latent.items()}},
              os.path.join(folder, "golden.safetensors"))


if __name__ == "__main__":
    main(*sys.argv[1:])
