"""Trains the small model that the package ships: python -m bench.train_small [--steps N]

A Gemma 3 of 3.6 million parameters on the Python documentation that comes with the interpreter (the
topics of help() and the docstrings of the standard library, PSF licence), with a SentencePiece
vocabulary of the same text, written as Q8_0. Needs torch and transformers, development tools that
nothing else here needs. Prints the perplexity on text that it was not trained on, by torch and,
for the file, by `reference`.
"""

import argparse
import ast
import io
import pydoc_data.topics
import random
import re
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import transformers

import reference
from zerfoo_numba.gguf_writer import write_gguf
from zerfoo_numba.quant.write import quantize

OUT = Path(__file__).parents[1] / "zerfoo_numba" / "data" / "python-topics.gguf"
V, D, F, L, H, KH, HD, CONTEXT, WINDOW, PATTERN = 2048, 256, 448, 6, 4, 1, 64, 1024, 128, 3
LOCAL_BASE, GLOBAL_BASE, EPS = 10000.0, 100000.0, 1e-6
LENGTH, BATCH, RATE = 256, 16, 3e-3
HELD_OUT = 20  # every so many documents, one is kept for the perplexity
TOPICS_WEIGHT = 3  # help()'s topics are read so often for once that a docstring is


def documents():
    """(the topics of help(), the docstrings of the standard library), each a list of texts."""
    topics = [plain(text) for _, text in sorted(pydoc_data.topics.topics.items())]
    docstrings = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                if len(text) > 200:
                    docstrings.append(plain(text))
    return topics, docstrings


def plain(text):
    """Paragraphs of prose on one line each; words in double quotes, as topics mark code, bare."""
    paragraphs = []
    for block in re.split(r"\n\s*\n", text):
        lines = block.strip("\n").split("\n")
        prose = all(re.match(r"\s*[A-Za-z\"(*]", line) for line in lines) and ">>>" not in block
        paragraphs.append(" ".join(map(str.strip, lines)) if prose else block.rstrip())
    text = "\n\n".join(p for p in paragraphs if not re.fullmatch(r"[*=\-~^\s]*", p))
    return re.sub(r'"([^\s"]{1,40})"', r"\1", text)


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


def tiny_gemma():
    kinds = ["full_attention" if (i + 1) % PATTERN == 0 else "sliding_attention" for i in range(L)]
    config = transformers.Gemma3TextConfig(
        vocab_size=V, hidden_size=D, intermediate_size=F, num_hidden_layers=L, head_dim=HD,
        num_attention_heads=H, num_key_value_heads=KH, max_position_embeddings=CONTEXT,
        query_pre_attn_scalar=HD, rms_norm_eps=EPS, sliding_window=WINDOW, layer_types=kinds,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": GLOBAL_BASE},
            "sliding_attention": {"rope_type": "default", "rope_theta": LOCAL_BASE},
        }, bos_token_id=1, eos_token_id=2, pad_token_id=0, use_cache=False,
    )  # fmt: skip
    return transformers.Gemma3ForCausalLM(config)


def batches(ids, generator):
    """Endless (BATCH, LENGTH + 1) pieces of one long row of ids."""
    while True:
        starts = torch.randint(len(ids) - LENGTH - 1, (BATCH,), generator=generator)
        yield torch.stack([ids[s : s + LENGTH + 1] for s in starts])


def loss(model, rows):
    logits = model(input_ids=rows[:, :-1]).logits.float()
    return torch.nn.functional.cross_entropy(logits.reshape(-1, V), rows[:, 1:].reshape(-1))


def train(model, ids, steps):
    generator = torch.Generator().manual_seed(1)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.05)
    started, rows = time.time(), batches(ids, generator)
    for step in range(steps):
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(model, next(rows))
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}: loss {value.item():.3f}, {time.time() - started:.0f} s",
                  file=sys.stderr, flush=True)  # fmt: skip


def perplexity(logits, ids):
    """exp of the mean negative log-likelihood of ids[1:] under the logits before each."""
    logits = np.asarray(logits[:-1], np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(np.exp(-log_p[np.arange(len(ids) - 1), ids[1:]].mean()))


def write(model, pieces, path):
    """The GGUF file; norms are stored as what multiplies, 1 + weight."""
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    parts = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
    }  # fmt: skip
    names |= {f"model.layers.{i}.{a}": f"blk.{i}.{b}" for i in range(L) for a, b in parts.items()}
    arrays = {}
    for name, parameter in model.named_parameters():
        array = parameter.detach().float().numpy()
        arrays[names[name.removesuffix(".weight")] + ".weight"] = (
            array + 1 if array.ndim == 1 else array
        )
    tensors = {n: (a.shape[::-1], "Q8_0" if a.ndim == 2 else "F32") for n, a in arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_gguf(path, metadata(pieces), tensors,
               lambda name, shape, kind: [quantize(arrays[name], kind).tobytes()])  # fmt: skip


def metadata(pieces):
    ids = range(V)
    kinds = np.full(V, 1, np.int32)  # of llama.cpp's token types: normal
    for kind, test in ((2, pieces.IsUnknown), (3, pieces.IsControl), (6, pieces.IsByte)):
        kinds[[i for i in ids if test(i)]] = kind
    model = {
        "context_length": CONTEXT, "block_count": L, "embedding_length": D,
        "feed_forward_length": F, "attention.head_count": H, "attention.head_count_kv": KH,
        "attention.key_length": HD, "attention.value_length": HD,
        "attention.layer_norm_rms_epsilon": EPS, "attention.sliding_window": WINDOW,
        "attention.sliding_window_pattern": PATTERN, "rope.freq_base": GLOBAL_BASE,
        "rope.freq_base_swa": LOCAL_BASE,
    }  # fmt: skip
    return {
        "general.architecture": "gemma3",
        "general.name": "python-topics",
        "general.description": "trained on the documentation in Python's standard library",
        "general.license": "PSF-2.0",
        **{f"gemma3.{k}": v for k, v in model.items()},
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [pieces.IdToPiece(i) for i in ids],
        "tokenizer.ggml.scores": np.array([pieces.GetScore(i) for i in ids], np.float32),
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench.train_small", description=__doc__)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    topics, docstrings = documents()
    kept = [t for group in (topics, docstrings) for t in group[::HELD_OUT]]
    topics, docstrings = (
        [t for i, t in enumerate(g) if i % HELD_OUT] for g in (topics, docstrings)
    )
    pieces = vocabulary(topics + docstrings)
    read = TOPICS_WEIGHT * topics + docstrings
    random.Random(0).shuffle(read)
    ids = torch.tensor([i for text in read for i in [1, *pieces.EncodeAsIds(text), 2]])
    model = tiny_gemma()
    count = sum(p.numel() for p in model.parameters())
    print(f"{count} parameters, {len(ids)} tokens to read, {len(kept)} documents kept back")
    train(model, ids, options.steps)
    write(model, pieces, options.out)
    test = [1, *pieces.EncodeAsIds(kept[0])][:LENGTH]
    with torch.no_grad():
        by_torch = perplexity(model(input_ids=torch.tensor([test])).logits[0].float().numpy(), test)
    by_file = perplexity(reference.load_model(options.out).logits(test), test)
    print(f"perplexity on {len(test)} tokens kept back: {by_torch:.2f} by torch, {by_file:.2f} of "
          f"{options.out.name} by reference")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
