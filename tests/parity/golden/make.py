"""Makes goldens: tiny random models, and the logits Hugging Face transformers computes for them.

    python tests/parity/golden/make.py [NAME ...]

needs torch, transformers and gguf; the tests read what it wrote and need none of them. Every
hyperparameter differs from its default, so that a reader who ignores one fails.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
VOCABULARY = 96


def gemma3_pattern():
    """Gemma 3: pattern of 3 by key, scaled global RoPE, two bases, HD != D/H, 4 heads on 2."""
    config = transformers.Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=20,
        query_pre_attn_scalar=20,
        rms_norm_eps=3e-3,
        sliding_window=5,
        layer_types=["full_attention" if i % 3 == 2 else "sliding_attention" for i in range(5)],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 70000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 3000.0},
        },
        max_position_embeddings=256,
    )
    model = transformers.Gemma3ForCausalLM(config)
    randomise(model, embedding=0.2)
    keys = {
        "attention.sliding_window": 5,
        "attention.sliding_window_pattern": 3,
        "rope.scaling.type": "linear",
        "rope.scaling.factor": 8.0,
        "rope.freq_base": 70000.0,
        "rope.freq_base_swa": 3000.0,
    }
    # The converter stores the weight that multiplies: transformers computes with 1 + weight.
    return model, "gemma3", keys, GEMMA3_NAMES, lambda name, x: x + 1 if "norm" in name else x


LLAMA_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GEMMA3_NAMES = LLAMA_NAMES | {
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
MODELS = {"gemma3_pattern": gemma3_pattern}


def randomise(model, embedding):
    """Weights large enough that attention is peaked and every layer changes the logits."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = embedding if "embed_tokens" in name else 0.3
            if parameter.ndim == 2 and "embed_tokens" not in name:
                scale = 1.5 / parameter.shape[1] ** 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def gguf_name(name, names):
    """transformers' name of a parameter as GGUF's: model.layers.3.mlp.up_proj -> blk.3.ffn_up."""
    stem, suffix = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        _, _, layer, stem = stem.split(".", 3)
        return f"blk.{layer}.{names[stem]}.{suffix}"
    return f"{names[stem]}.{suffix}"


def write_gguf(path, model, arch, keys, names, stored):
    """The model as a float32 GGUF file; `stored(name, x)` is what the file holds for a tensor."""
    config = model.config
    common = {
        "context_length": config.max_position_embeddings,
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    }
    writer = gguf.GGUFWriter(path, arch)
    add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in (common | keys).items():
        add[type(value)](f"{arch}.{key}", value)
    write_vocabulary(writer)
    for name, parameter in model.named_parameters():
        tensor = gguf_name(name, names)
        writer.add_tensor(tensor, stored(tensor, parameter.detach()).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_vocabulary(writer):
    """A SentencePiece vocabulary of single characters, so that any runtime can load the file."""
    pieces = ["<unk>", "<s>", "</s>", "\u2581"]
    pieces += [chr(code) for code in range(33, 33 + VOCABULARY - len(pieces))]
    kinds = [gguf.TokenType.UNKNOWN] + 2 * [gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    writer.add_token_scores([-float(i) for i in range(VOCABULARY)])
    writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * (VOCABULARY - len(kinds)))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)


def make(name):
    """Writes the directory of one golden and prints the noise that its tolerance rests on."""
    directory = HERE / name
    directory.mkdir(exist_ok=True)
    model, *description = MODELS[name]()
    model.eval().set_attn_implementation("eager")
    write_gguf(directory / "model.gguf", model, *description)
    rng = np.random.default_rng(1)
    ids = {"short": rng.integers(3, VOCABULARY, 7), "long": rng.integers(3, VOCABULARY, 40)}
    (directory / "tokens.json").write_text(json.dumps({k: v.tolist() for k, v in ids.items()}))
    exact = {}
    for dtype in (torch.float64, torch.float32):
        model.to(dtype)
        for length, sequence in ids.items():
            with torch.no_grad():
                logits = model(torch.tensor(sequence)[None]).logits[0].numpy()
            if dtype == torch.float64:
                exact[length] = logits
                continue
            np.save(directory / f"logits_{length}.npy", logits)
            noise = np.abs(logits - exact[length]).max()
            print(f"{name} {length}: std {logits.std():.2f}, float32 noise {noise:.1e}")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or MODELS:
        make(chosen)
