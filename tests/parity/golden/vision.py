"""Goldens with images: tiny random towers and text models, and what transformers makes of them.

    python -m tests.parity.golden.vision [NAME ...]

needs torch, transformers, Pillow and gguf. Keys and tensors are as llama.cpp's converters write
them: tools/mtmd/legacy-models for LLaVA, whose ffn_up and ffn_down have each other's names, and
convert_hf_to_gguf.py for the others.
"""

import json
import re
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from PIL import Image

from tests.parity.golden import vision_models
from tests.parity.golden.description import dimensions, rms_eps
from tests.parity.golden.make import write_vocabulary
from tests.parity.golden.vision_models import IMAGE_TOKEN

HERE = Path(__file__).parent / "vision_files"
RENAMED = [  # of transformers' tower and projector, in the order they are tried
    (r".*embeddings\.class_embedding", "v.class_embd"),
    (r".*embeddings\.patch_embedding", "v.patch_embd"),
    (r".*embeddings\.position_embedding", "v.position_embd"),
    (r".*pre_layrnorm", "v.pre_ln"),
    (r".*post_layernorm", "v.post_ln"),
    (r".*patch_embed\.proj", "v.patch_embd"),
    (r".*(?:layers|blocks)\.(\d+)\.(?:layer_norm|norm)(\d)", r"v.blk.\1.ln\2"),
    (r".*layers\.(\d+)\.self_attn\.(q|k|v|out)(?:_proj)?", r"v.blk.\1.attn_\2"),
    (r".*blocks\.(\d+)\.attn\.qkv", r"v.blk.\1.attn_qkv"),
    (r".*blocks\.(\d+)\.attn\.proj", r"v.blk.\1.attn_out"),
    (r".*\.(\d+)\.mlp\.(?:fc1|up_proj)", r"v.blk.\1.ffn_up"),
    (r".*\.(\d+)\.mlp\.(?:fc2|down_proj)", r"v.blk.\1.ffn_down"),
    (r".*\.(\d+)\.mlp\.gate_proj", r"v.blk.\1.ffn_gate"),
    (r".*merger\.ln_q", "v.post_ln"),
    (r".*merger\.mlp\.(\d)", r"mm.\1"),
    (r".*projector\.linear_1", "mm.0"),
    (r".*projector\.linear_2", "mm.2"),
    (r".*mm_input_projection_weight", "mm.input_projection.weight"),
    (r".*mm_soft_emb_norm", "mm.soft_emb_norm"),
    (r".*image_newline", "model.image_newline"),
]


def randomise(model, norm_offset):
    """Weights large enough that attention is peaked; matrices are what float16 can hold."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if re.search(r"norm|ln_q", name) and name.endswith("weight"):
                in_text = "language_model" in name or "soft_emb" in name
                parameter.copy_(noise * 0.3 + (1 - norm_offset if in_text else 1))
            elif parameter.ndim == 1:
                parameter.copy_(noise * 0.3)
            else:
                fan_in = parameter.numel() // len(parameter)
                spread = 0.5 if "embed_tokens" in name else 1.5 / fan_in**0.5
                parameter.copy_((noise * spread).half())


def tower_tensors(golden):
    """{GGUF name: array} of the mmproj file."""
    tensors = {}
    for name, parameter in golden.model.named_parameters():
        if "language_model" in name or "lm_head" in name:
            continue
        x = parameter.detach().numpy().copy()
        rule = next((rule for rule in RENAMED if re.match(rule[0], name)), None)
        assert rule is not None, name
        found = re.sub(rule[0], rule[1], name)
        if golden.blocks is not None:
            block = re.match(r"v\.blk\.(\d+)", found)
            if found.startswith("v.post_ln") or (block and int(block[1]) >= golden.blocks):
                continue
        if golden.swapped and "ffn_" in found:
            up = "ffn_up" in found
            found = found.replace(*("ffn_up", "ffn_down") if up else ("ffn_down", "ffn_up"))
        tensors |= split(found, x + golden.norm_offset if "soft_emb" in found else x)
    return tensors


def split(name, x):
    """A fused matrix of q, k and v in three, a kernel over two frames in two."""
    if "attn_qkv" in name:
        return {
            name.replace("qkv", letter): part
            for letter, part in zip("qkv", np.split(x, 3), strict=True)
        }
    if name == "v.patch_embd.weight" and x.ndim == 5:
        return {name: x[:, :, 0], name + ".1": x[:, :, 1]}
    return {name: x}


def text_tensors(golden):
    """{GGUF name: array} of the text file."""
    names = gguf.get_tensor_name_map(golden.arch, golden.model.config.text_config.num_hidden_layers)
    tensors = {}
    for name, parameter in golden.model.named_parameters():
        if "language_model" in name or "lm_head" in name:
            found = names.get_name(
                name.replace("model.language_model", "model"), try_suffixes=(".weight", ".bias")
            )
            x = parameter.detach().numpy().copy()
            tensors[found] = x + golden.norm_offset if "norm" in found else x
    return tensors


def write(path, arch, keys, tensors, vocabulary):
    writer = gguf.GGUFWriter(path, arch)
    adders = {
        bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32,
        str: writer.add_string, list: writer.add_array,
    }  # fmt: skip
    for key, value in keys.items():
        adders[type(value)](key, value)
    if vocabulary:
        write_vocabulary(writer)
    for name, x in tensors.items():
        small = x.ndim > 1 and name not in ("v.position_embd.weight",)
        writer.add_tensor(name, np.ascontiguousarray(x.astype(np.float16) if small else x))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def picture(rng, width, height):
    """Waves of another length in each channel, with noise: any change of scale shows."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / a + y / b) for a, b in ((3, 7), (5, 2), (9, 4))]
    values = 127 + 90 * np.stack(waves, -1) + rng.normal(0, 12, (height, width, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def run(golden, images, dtype):
    """(prompt with image names, arrays) of transformers in `dtype`."""
    model = golden.model.to(dtype)
    rng = np.random.default_rng(3)
    prompt, ids, arrays = [1], [1], {}
    for i, image in enumerate(images):
        inputs = vision_models.inputs_of(golden.processor, [image])
        arrays[f"pixels{i}"] = inputs["pixel_values"].numpy()
        with torch.no_grad():
            tokens = vision_models.features(model, cast(inputs, dtype))
        arrays[f"image_embd{i}"] = tokens.float().numpy() if dtype == torch.float32 else tokens
        words = rng.integers(3, IMAGE_TOKEN, 3 + i).tolist()
        prompt += [*words, f"image{i}.png"]
        ids += words + [IMAGE_TOKEN] * len(tokens)
    words = rng.integers(3, IMAGE_TOKEN, 5).tolist()
    prompt, ids = prompt + words, torch.tensor([ids + words])
    inputs = cast(vision_models.inputs_of(golden.processor, images), dtype)
    kinds = (ids == IMAGE_TOKEN).int()
    with torch.no_grad():
        output = model(input_ids=ids, **vision_models.token_types(model, kinds), **inputs)
    arrays["logits"] = output.logits[0].numpy()
    return prompt, arrays


def cast(inputs, dtype):
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}


def make(name):
    """Writes the directory of one golden and prints the noise that its tolerances rest on."""
    directory = HERE / name
    directory.mkdir(exist_ok=True, parents=True)
    golden = vision_models.MODELS[name]()
    golden.model.eval()
    randomise(golden.model, golden.norm_offset)
    arch, text = gguf.MODEL_ARCH_NAMES[golden.arch], golden.model.model.language_model
    keys = dimensions(text) | rms_eps(text) | golden.keys
    keys = {f"{arch}.{key}": value for key, value in keys.items()}
    write(directory / "model.gguf", arch, keys, text_tensors(golden), vocabulary=True)
    write(directory / "mmproj.gguf", "clip", golden.tower, tower_tensors(golden), vocabulary=False)
    rng = np.random.default_rng(2)
    images = [picture(rng, *size) for size in golden.sizes]
    for i, image in enumerate(images):
        image.save(directory / f"image{i}.png", optimize=True)
    _, exact = run(golden, images, torch.float64)
    prompt, arrays = run(golden, images, torch.float32)
    for resize, processor in golden.others.items():
        inputs = vision_models.inputs_of(processor, images[:1])
        arrays[f"pixels0_{resize}"] = inputs["pixel_values"].numpy()
    (directory / "prompt.json").write_text(json.dumps(prompt))
    np.savez_compressed(directory / "expected.npz", **arrays)
    for key in ("image_embd0", "logits"):
        noise = np.abs(arrays[key] - np.asarray(exact[key])).max()
        print(f"{name} {key}: std {arrays[key].std():.2f}, float32 noise {noise:.1e}")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or vision_models.MODELS:
        make(chosen)
