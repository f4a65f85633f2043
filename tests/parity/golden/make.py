"""Makes goldens: tiny random models, and the logits Hugging Face transformers computes for them.

    python -m tests.parity.golden.make [NAME ...]

needs torch, transformers and gguf; the tests read what it wrote and need none of them. Every
hyperparameter differs from its default, so that a reader who ignores one fails.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import torch

from tests.parity.golden import (
    experts,
    gemma,
    llama,
    mamba_models,
    more_rows,
    parallel,
    qwen_phi,
    rwkv,
)
from tests.parity.golden.description import V

HERE = Path(__file__).parent
MODELS = {
    make.__name__: make
    for make in (
        gemma.gemma,
        gemma.gemma2,
        gemma.gemma3_default,
        gemma.gemma3_pattern,
        gemma.gemma3_Q4_K_M,
        llama.llama,
        llama.llama_bias,
        llama.llama_yarn,
        llama.mistral,
        qwen_phi.qwen2,
        qwen_phi.qwen3,
        qwen_phi.phi3,
        qwen_phi.phi3_longrope,
        parallel.commandr,
        parallel.commandr_qk_norm,
        parallel.falcon,
        parallel.falcon_40b,
        experts.mixtral,
        experts.qwen2moe,
        experts.qwen3moe,
        more_rows.olmo2,
        more_rows.granite,
        more_rows.starcoder2,
        more_rows.gpt2,
        mamba_models.mamba,
        mamba_models.falcon_mamba,
        rwkv.rwkv6,
        rwkv.rwkv6_older,
        rwkv.rwkv7,
        rwkv.rwkv7_ungated,
    )
}
# Elements and bytes of a block, where its float16 scale d is, and std / d of random fields.
FORMATS = {
    "Q4_0": (32, 18, 0, 4.6),
    "Q5_0": (32, 22, 0, 9.2),
    "Q8_0": (32, 34, 0, 74),
    "Q4_K": (256, 144, 0, 250),
    "Q6_K": (256, 210, 208, 1370),
}


def randomise(golden):
    """Weights large enough that attention is peaked and every layer changes the logits."""
    generator = torch.Generator().manual_seed(0)
    centre = 1 - golden.stored("norm", torch.zeros(1))  # of norms as transformers keeps them
    with torch.no_grad():
        for name, parameter in golden.model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            own = golden.initial(name, noise)
            if own is not None:
                parameter.copy_(own)
            elif "embed" in name:
                parameter.copy_(noise * golden.embedding)
            elif "bias" in name:
                parameter.copy_(noise * 0.3)
            elif "norm" in name or "ln_" in name:
                parameter.copy_(noise * 0.3 + centre)
            else:
                parameter.copy_(noise * 1.5 / parameter.shape[-1] ** 0.5)


def random_blocks(rng, shape, kind, std):
    """Bytes (.., bytes) of random fields whose values have about that standard deviation."""
    elements, size, at, spread = FORMATS[kind]
    blocks = rng.integers(0, 256, (shape.numel() // elements, size), np.uint8)
    d = np.full((len(blocks), 1), std / spread, np.float16)
    blocks[:, at : at + 2] = d.view(np.uint8)
    if kind == "Q4_K":  # d scale q - dmin min, q 0 .. 15: the mins centre it
        blocks[:, 2:4] = (d * np.float16(7.5)).view(np.uint8)
    return blocks.reshape(*shape[:-1], -1)


def named_parts(golden):
    """(GGUF name, parameter) of everything the file holds; one parameter may be two tensors."""
    names = gguf.get_tensor_name_map(golden.arch, golden.model.config.num_hidden_layers)
    for name, parameter in golden.model.named_parameters():
        if name.endswith("experts.gate_up_proj"):
            block = name.split(".")[2]
            halves = parameter.chunk(2, dim=1)
            for part, half in zip(("gate", "up"), halves, strict=True):
                yield f"blk.{block}.ffn_{part}_exps.weight", half
            continue
        tensor = names.get_name(name, try_suffixes=(".weight", ".bias")) or name
        complete = tensor.endswith((".weight", ".bias", "ssm_a", "ssm_d"))
        yield tensor if complete else f"{tensor}.weight", parameter


def file_tensors(golden):
    """{GGUF name: (array, type)}; parameters of a quantised type become what the file says."""
    rng = np.random.default_rng(0)
    tensors = {}
    for tensor, parameter in named_parts(golden):
        kind = next((t for start, t in golden.types.items() if tensor.startswith(start)), "F32")
        if kind == "F32" or "norm" in tensor:
            tensors[tensor] = golden.stored(tensor, parameter.detach()).numpy().copy(), None
            continue
        std = golden.embedding if "_embd" in tensor else 1.5 / parameter.shape[-1] ** 0.5
        blocks = random_blocks(rng, parameter.shape, kind, std)
        kind = gguf.GGMLQuantizationType[kind]
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(gguf.dequantize(blocks, kind)))
        tensors[tensor] = blocks, kind
    return tensors | {name: (x.numpy(), None) for name, x in golden.extra.items()}


def write_gguf(path, golden):
    arch = gguf.MODEL_ARCH_NAMES[golden.arch]
    writer = gguf.GGUFWriter(path, arch)
    add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add[bool] = writer.add_bool
    for key, value in golden.keys.items():
        add[type(value)](f"{arch}.{key}", value)
    {"llama": write_vocabulary, "rwkv": write_byte_vocabulary}[golden.vocabulary](writer)
    for name, (array, kind) in file_tensors(golden).items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_vocabulary(writer):
    """A SentencePiece vocabulary of single characters, so that any runtime can load the file."""
    pieces = ["<unk>", "<s>", "</s>", "\u2581"]
    pieces += [chr(code) for code in range(64, 64 + V - len(pieces))]
    kinds = [gguf.TokenType.UNKNOWN] + 2 * [gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    writer.add_token_scores([-float(i) for i in range(V)])
    writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * (V - len(kinds)))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)


def write_byte_vocabulary(writer):
    """RWKV's kind of vocabulary: byte strings, of which the longest that fits is taken."""
    texts = [chr(code) for code in range(64, 64 + V - 8)] + [r"\x00", r"\n", r"\xff", "AB", "ABC"]
    tokens = ["<s>", *texts, r"\xe2\x82\xac", r"\n\n"]
    writer.add_tokenizer_model("rwkv")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (V - 1))
    writer.add_eot_token_id(0)
    writer.add_eos_token_id(V - 1)


def make(name):
    """Writes the directory of one golden and prints the noise that its tolerance rests on."""
    directory = HERE / name
    directory.mkdir(exist_ok=True)
    golden = MODELS[name]()
    golden.model.eval()
    randomise(golden)
    write_gguf(directory / "model.gguf", golden)
    rng = np.random.default_rng(1)
    ids = {"short": rng.integers(3, V, 7), "long": rng.integers(3, V, 40)}
    (directory / "tokens.json").write_text(json.dumps({k: v.tolist() for k, v in ids.items()}))
    exact = {}
    for dtype in (torch.float64, torch.float32):
        golden.model.to(dtype)
        for length, sequence in ids.items():
            with torch.no_grad():
                logits = golden.model(torch.tensor(sequence)[None]).logits[0].numpy()
            if dtype == torch.float64:
                exact[length] = logits
                continue
            np.save(directory / f"logits_{length}.npy", logits)
            noise = np.abs(logits - exact[length]).max()
            print(f"{name} {length}: std {logits.std():.2f}, float32 noise {noise:.1e}")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or MODELS:
        make(chosen)
