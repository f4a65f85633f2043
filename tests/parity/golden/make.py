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

from tests.parity.golden import gemma, llama, parallel, qwen_phi
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
    )
}
K_QUANTS = {  # bytes of a block of 256, where its float16 scale d is, and std / d of random fields
    "Q4_K": (144, 0, 250),
    "Q6_K": (210, 208, 1370),
}


def randomise(golden):
    """Weights large enough that attention is peaked and every layer changes the logits."""
    generator = torch.Generator().manual_seed(0)
    centre = 1 - golden.stored("norm", torch.zeros(1))  # of norms as transformers keeps them
    with torch.no_grad():
        for name, parameter in golden.model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "embed" in name:
                parameter.copy_(noise * golden.embedding)
            elif "bias" in name:
                parameter.copy_(noise * 0.3)
            elif "norm" in name or "ln_" in name:
                parameter.copy_(noise * 0.3 + centre)
            else:
                parameter.copy_(noise * 1.5 / parameter.shape[1] ** 0.5)


def random_k_quant(rng, shape, kind, std):
    """Bytes (rows, bytes) of random fields whose values have about that standard deviation."""
    size, at, spread = K_QUANTS[kind]
    blocks = rng.integers(0, 256, (shape.numel() // 256, size), np.uint8)
    d = np.full((len(blocks), 1), std / spread, np.float16)
    blocks[:, at : at + 2] = d.view(np.uint8)
    if kind == "Q4_K":  # d scale q - dmin min, q 0 .. 15: the mins centre it
        blocks[:, 2:4] = (d * np.float16(7.5)).view(np.uint8)
    return blocks.reshape(shape[0], -1)


def file_tensors(golden):
    """{GGUF name: (array, type)}; parameters of a quantised type become what the file says."""
    rng = np.random.default_rng(0)
    names = gguf.get_tensor_name_map(golden.arch, golden.model.config.num_hidden_layers)
    tensors = {}
    for name, parameter in golden.model.named_parameters():
        tensor = names.get_name(name, try_suffixes=(".weight", ".bias"))
        kind = next((t for start, t in golden.types.items() if tensor.startswith(start)), "F32")
        if kind == "F32" or "norm" in tensor:
            tensors[tensor] = golden.stored(tensor, parameter.detach()).numpy().copy(), None
            continue
        std = golden.embedding if "embed" in name else 1.5 / parameter.shape[1] ** 0.5
        blocks = random_k_quant(rng, parameter.shape, kind, std)
        kind = gguf.GGMLQuantizationType[kind]
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(gguf.dequantize(blocks, kind)))
        tensors[tensor] = blocks, kind
    return tensors | {name: (x.numpy(), None) for name, x in golden.extra.items()}


def write_gguf(path, golden):
    arch = gguf.MODEL_ARCH_NAMES[golden.arch]
    writer = gguf.GGUFWriter(path, arch)
    add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in golden.keys.items():
        add[type(value)](f"{arch}.{key}", value)
    write_vocabulary(writer)
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
