"""Trains the small model that the package ships: python -m bench.train_small [STDLIB ...]

A Gemma 3 of 3.3 million parameters, with a SentencePiece vocabulary of its own, on the prose inside
Python's standard library (`bench.small_text`). Each STDLIB is a folder such as lib/python3.11; by
default it is that of the interpreter at work. Needs torch, which nothing else here does
(pip install torch==2.13.0). On one core with bfloat16 products it takes half an hour; the weights
of the step of least held-out loss are kept. Writes zerfoo_numba/data/python-topics.gguf, whose
metadata say what it was trained on (zerfoo-numba info), and bench/held_out.txt.xz under --out.
"""

import argparse
import io
import json
import lzma
import math
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from torch import nn
from torch.nn import functional as F

from bench import small_text
from zerfoo_numba.gguf_writer import write_gguf
from zerfoo_numba.quant.write import quantize

V, D, FF, L, H, KH, HD, CONTEXT = 2048, 256, 512, 5, 4, 1, 64, 512
WINDOW, PATTERN = 128, 2  # every second layer sees the whole context
LOCAL_BASE, GLOBAL_BASE, EPS = 10000.0, 100000.0, 1e-6
BATCH, RATE, WARM_UP, DECAY, DROPOUT = 8, 3e-3, 0.05, 0.1, 0.1
# First all text, on a cosine that is left half way; then down to a rate of zero on text that is
# one third topics of help(), which are the prose that the model is shown with.
STEPS, CYCLE, TOPICS = (800, 300), 1500, (2, 5)
# The model continues texts: a conversation is one text, a paragraph a turn.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}"
    "{% if not loop.last %}{{ '\n\n' }}{% endif %}{% endfor %}"
)


class Norm(nn.Module):
    """x / rms(x) * weight."""

    def __init__(self, width, start=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), start))

    def forward(self, x):
        return F.rms_norm(x.float(), x.shape[-1:], self.weight, EPS)


class Block(nn.Module):
    """A layer of Gemma 3: norms before and after attention and feed-forward, QK-norm, GeGLU.

    The parameters bear the names of the GGUF tensors.
    """

    def __init__(self, full):
        super().__init__()
        self.full = full
        for name, inputs, outputs in (
            ("attn_q", D, H * HD), ("attn_k", D, KH * HD), ("attn_v", D, KH * HD),
            ("attn_output", H * HD, D), ("ffn_gate", D, FF), ("ffn_up", D, FF), ("ffn_down", FF, D),
        ):  # fmt: skip
            layer = nn.Linear(inputs, outputs, bias=False)
            nn.init.normal_(layer.weight, std=inputs**-0.5)
            self.add_module(name, layer)
        self.attn_norm, self.ffn_norm = Norm(D), Norm(D)
        self.post_attention_norm, self.post_ffw_norm = Norm(D, 0.3), Norm(D, 0.3)
        self.attn_q_norm, self.attn_k_norm = Norm(HD), Norm(HD)

    def forward(self, x, turns, masks):
        B, T, _ = x.shape
        h = self.attn_norm(x)
        q = self.attn_q_norm(self.attn_q(h).view(B, T, H, HD))
        k = self.attn_k_norm(self.attn_k(h).view(B, T, KH, HD))
        v = self.attn_v(h).view(B, T, KH, HD)
        q, k = (turned(a, *turns[self.full]).to(v.dtype).transpose(1, 2) for a in (q, k))
        k, v = k.expand(B, H, T, HD), v.transpose(1, 2).expand(B, H, T, HD)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=masks[self.full])
        out = self.attn_output(out.transpose(1, 2).reshape(B, T, H * HD))
        x = x + self.dropped(self.post_attention_norm(out))
        h = self.ffn_norm(x)
        out = self.ffn_down(F.gelu(self.ffn_gate(h), approximate="tanh") * self.ffn_up(h))
        return x + self.dropped(self.post_ffw_norm(out))

    def dropped(self, x):
        return F.dropout(x, DROPOUT, self.training)


class Gemma(nn.Module):
    """ids (B, T) to logits (B, T, V); the head is the embedding."""

    def __init__(self):
        super().__init__()
        self.token_embd = nn.Embedding(V, D)
        nn.init.normal_(self.token_embd.weight, std=0.02)
        self.blk = nn.ModuleList(Block((i + 1) % PATTERN == 0) for i in range(L))
        self.output_norm = Norm(D)
        i = torch.arange(CONTEXT)
        ago = i[:, None] - i
        self.masks = {False: (ago >= 0) & (ago < WINDOW), True: ago >= 0}
        self.turns = {False: turn(LOCAL_BASE), True: turn(GLOBAL_BASE)}

    def forward(self, ids):
        T = ids.shape[1]
        masks = {full: mask[:T, :T] for full, mask in self.masks.items()}
        turns = {full: (c[:T], s[:T]) for full, (c, s) in self.turns.items()}
        x = F.dropout(self.token_embd(ids) * math.sqrt(D), DROPOUT, self.training)
        for block in self.blk:
            x = block(x, turns, masks)
        return F.linear(self.output_norm(x), self.token_embd.weight)


def turn(base):
    """cos and sin of RoPE's angles, (CONTEXT, HD / 2) each."""
    angle = torch.arange(CONTEXT)[:, None] * base ** (-torch.arange(0, HD, 2) / HD)
    return angle.cos(), angle.sin()


def turned(x, cos, sin):
    """x (B, T, heads, HD), element j turned with element j + HD / 2."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def vocabulary(texts):
    """A trained SentencePiece model of V pieces with bytes to fall back on."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in texts for line in text.split("\n") if line),
        model_writer=model, vocab_size=V, model_type="bpe", byte_fallback=True, num_threads=1,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
        max_sentence_length=8192, split_digits=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
        minloglevel=2,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def rows(pieces, texts):
    """Windows (n, CONTEXT) of the documents one after another, each between BOS and EOS."""
    ids = [i for text in texts for i in [1, *pieces.EncodeAsIds(text), 2]]
    count = len(ids) // CONTEXT
    return torch.tensor(ids[: count * CONTEXT]).view(count, CONTEXT)


def loss(model, ids):
    """Mean negative log-likelihood of ids (B, T), in nats."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids[:, :-1])
    return F.cross_entropy(logits.float().reshape(-1, V), ids[:, 1:].reshape(-1))


@torch.no_grad()
def mean_loss(model, ids):
    model.eval()
    parts = [loss(model, part).item() * len(part) for part in ids.split(BATCH)]
    model.train()
    return sum(parts) / len(ids)


def warm_up_and_cosine(optimizer):
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, CYCLE, pct_start=WARM_UP, final_div_factor=100
    )


def down_to_zero(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 20, 1) * 0.5 * (1 - step / STEPS[1])
    )


def train(model, ids, stop, schedule_of, steps, seed, checkpoint):
    """Leave `model` with the weights of least loss on `stop`; -> (that loss, its step)."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95))
    schedule = schedule_of(optimizer)
    generator = torch.Generator().manual_seed(seed)
    best, at, started = math.inf, 0, time.time()
    for step in range(1, steps + 1):
        starts = torch.randint(len(ids) - CONTEXT, (BATCH,), generator=generator)
        value = loss(model, torch.stack([ids[s : s + CONTEXT + 1] for s in starts]))
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0 or step == steps:
            held = mean_loss(model, stop)
            print(f"step {step}: loss {value.item():.3f}, held out {held:.3f} "
                  f"(perplexity {math.exp(held):.1f}), {time.time() - started:.0f} s",
                  file=sys.stderr, flush=True)  # fmt: skip
            if held < best:
                best, at = held, step
                torch.save(model.state_dict(), checkpoint)
    model.load_state_dict(torch.load(checkpoint))
    return best, at


def write(model, pieces, record, path):
    """The GGUF file, matrices as Q8_0."""
    arrays = {
        f"{name.removesuffix('.weight')}.weight": parameter.detach().float().numpy()
        for name, parameter in model.named_parameters()
    }
    tensors = {n: (a.shape[::-1], "Q8_0" if a.ndim == 2 else "F32") for n, a in arrays.items()}
    write_gguf(path, metadata(pieces, record), tensors,
               lambda name, shape, kind: [quantize(arrays[name], kind).tobytes()])  # fmt: skip


def metadata(pieces, record):
    ids = range(V)
    kinds = np.full(V, 1, np.int32)  # of llama.cpp's token types: normal
    for kind, test in ((2, pieces.IsUnknown), (3, pieces.IsControl), (6, pieces.IsByte)):
        kinds[[i for i in ids if test(i)]] = kind
    model = {
        "context_length": CONTEXT, "block_count": L, "embedding_length": D,
        "feed_forward_length": FF, "attention.head_count": H, "attention.head_count_kv": KH,
        "attention.key_length": HD, "attention.value_length": HD,
        "attention.layer_norm_rms_epsilon": EPS, "attention.sliding_window": WINDOW,
        "attention.sliding_window_pattern": PATTERN, "rope.freq_base": GLOBAL_BASE,
        "rope.freq_base_swa": LOCAL_BASE,
    }  # fmt: skip
    return {
        "general.architecture": "gemma3",
        "general.name": "python-topics",
        "general.description": "trained on the documentation in Python's standard library; "
        "it continues a text of that kind and knows nothing",
        "general.license": "PSF-2.0",
        "general.size_label": f"{record['parameters'] / 1e6:.1f}M",
        "general.file_type": 7,  # mostly Q8_0
        "general.quantization_version": 2,
        **{f"training.{key}": value for key, value in record.items()},
        **{f"gemma3.{key}": value for key, value in model.items()},
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [pieces.IdToPiece(i) for i in ids],
        "tokenizer.ggml.scores": np.array([pieces.GetScore(i) for i in ids], np.float32),
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }


def parser():
    result = argparse.ArgumentParser(prog="python -m bench.train_small", description=__doc__)
    result.add_argument("stdlib", nargs="*", type=Path, metavar="STDLIB",
                        default=[Path(sysconfig.get_path("stdlib"))])  # fmt: skip
    result.add_argument("--checkpoint", type=Path, default=Path("small_model.pt"))
    result.add_argument("--out", type=Path, default=Path(__file__).parents[1])
    return result


def main(arguments=None):
    options = parser().parse_args(arguments)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    texts = small_text.documents(options.stdlib)
    read, stop, test = small_text.split(texts)
    pieces = vocabulary(read)
    model, stop_rows = Gemma(), rows(pieces, stop)
    record = {"python": [folder.name for folder in options.stdlib], "torch": str(torch.__version__)}
    print(f"{sum(p.numel() for p in model.parameters())} parameters", file=sys.stderr)
    phases = zip((warm_up_and_cosine, down_to_zero), TOPICS, STEPS, (1, 2), strict=True)
    for schedule, times, steps, seed in phases:
        ids = rows(pieces, small_text.order(texts, read, times)).view(-1)
        train(model, ids, stop_rows, schedule, steps, seed, options.checkpoint)
    finish(model, pieces, read, stop, test, record, options.out)
    return 0


def finish(model, pieces, read, stop, test, record, folder):
    """Write what the package and the benchmarks need of the trained model."""
    record |= {
        "parameters": sum(p.numel() for p in model.parameters()), "steps": sum(STEPS),
        "tokens_in_a_step": BATCH * CONTEXT, "text_characters": sum(map(len, read)),
        "text_sha256": small_text.digest(read), "held_out_sha256": small_text.digest(test),
        "perplexity_of_stop": math.exp(mean_loss(model, rows(pieces, stop))),
        "perplexity_of_held_out": math.exp(mean_loss(model, rows(pieces, test))),
    }  # fmt: skip
    write(model, pieces, record, folder / "zerfoo_numba" / "data" / "python-topics.gguf")
    packed = lzma.compress(small_text.PAGE.join(test).encode(), preset=9 | lzma.PRESET_EXTREME)
    (folder / "bench" / small_text.HELD_OUT.name).write_bytes(packed)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    sys.exit(main())
