#!/usr/bin/env python3
"""Trains a LoRA adapter by PEFT on PyTorch on the steps of a vecpipe stream, and prints one JSON line:
{"seconds": [of each step], "losses": [...], "tokens": [without padding], "padded": [with it], "peak": bytes, "peer": name}

usage: peers_train.py STREAM MODEL ADAPTER THREADS [checkpointing] [bf16]     needs: torch, transformers, peft, gguf

STREAM is what `mask mntp` or `mask simcse` wrote, MODEL a .gguf file, ADAPTER the start, as PEFT has it. Attention is
PyTorch's own kernel (sdpa), to both sides; of MNTP only marked positions go through the output head; sentences are padded
to the longest of the step. AdamW, constant learning rate 1e-4, gradient clipped at 1: what bench/train.py asks of `step`.
"""
import json, os, resource, sys, time

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "examples"))
import numpy as np
import stream
import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import AutoModelForCausalLM

STREAM, MODEL, ADAPTER, THREADS = sys.argv[1:5]
WAYS = sys.argv[5:]


def steps():
    """Of every step its rows in order, each {"ids": [n]} and with MNTP "target": [n]."""
    rows = {}
    with open(STREAM, "rb") as f:
        for record in stream.read(f):
            if record["kind"] != "batch": continue
            columns = record["columns"]
            for number, a, b in zip(columns["row"], columns["cu"], columns["cu"][1:]):
                row = {name: torch.tensor(columns[name][a:b], dtype=torch.long) for name in ("ids", "target") if name in columns}
                rows.setdefault(record["step"], {})[number] = row
    return [[step[number] for number in sorted(step)] for _, step in sorted(rows.items())]


def padded(rows, name, value):
    return torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], batch_first=True, padding_value=value)


def mntp(model, head, rows):
    target = padded(rows, "target", -1)
    hidden = model(input_ids=padded(rows, "ids", 0), use_cache=False).last_hidden_state  # [B, n, C]: all rows are as long
    return F.cross_entropy(head(hidden[target >= 0]).float(), target[target >= 0])


def simcse(model, head, rows):
    """Rows 2k and 2k + 1 are the two views of sentence k; without dropout they are equal, and so are their vectors."""
    ids = padded(rows, "ids", 0)
    mask = torch.arange(ids.shape[1])[None] < torch.tensor([len(row["ids"]) for row in rows])[:, None]
    hidden = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state.float()
    vectors = F.normalize((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1)
    return F.cross_entropy(20 * vectors[0::2] @ vectors[1::2].T, torch.arange(len(rows) // 2))


def main():
    torch.set_num_threads(int(THREADS))
    folder, name = os.path.split(MODEL)
    dtype = torch.bfloat16 if "bf16" in WAYS else torch.float32
    whole = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=dtype, attn_implementation="sdpa")
    whole.config.is_causal = whole.model.config.is_causal = False
    if "checkpointing" in WAYS:
        whole.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model = PeftModel.from_pretrained(whole.model, ADAPTER, is_trainable=True).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.dtype == torch.float32 for p in trained)
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0)
    result = {"seconds": [], "losses": [], "tokens": [], "padded": [], "peer": f"PEFT, PyTorch {torch.__version__}"}
    for rows in steps():
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in WAYS):
            loss = (mntp if "target" in rows[0] else simcse)(model, whole.lm_head, rows)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        result["losses"].append(float(loss))
        result["seconds"].append(time.perf_counter() - start)
        result["tokens"].append(sum(len(row["ids"]) for row in rows))
        result["padded"].append(len(rows) * max(len(row["ids"]) for row in rows))
    result["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(result))


main()
