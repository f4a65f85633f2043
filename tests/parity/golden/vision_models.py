"""The models with towers: LLaVA 1.5 and 1.6, Qwen2-VL, Qwen2.5-VL and Gemma 3, each as small as
shows what is its own, every hyperparameter unlike its default.
"""

from dataclasses import dataclass, field

import gguf
import torch
import transformers
from gguf import MODEL_ARCH

from tests.parity.golden.description import CONTEXT, V, rope

IMAGE_TOKEN = V - 1
PATCH = 4
MEAN, STD = [0.45, 0.5, 0.4], [0.3, 0.25, 0.27]
TEXT = {
    "vocab_size": V,
    "max_position_embeddings": CONTEXT,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 4e-3,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "patch_size": PATCH}


@dataclass
class VisionGolden:
    """A model with a tower, and its files.

    `model` of transformers; `processor` of its images; `arch` and `keys` of the text file, `tower`
    the keys of the mmproj file; `sizes` (width, height) of the images; `swapped`: whether ffn_up
    and ffn_down have each other's names; `norm_offset`: what the file's norms of the text have
    added; `blocks`: of the tower in the file, None for all; `others` {resize: processor} for which
    the first image's pixels are kept as well.
    """

    model: object
    processor: object
    arch: gguf.MODEL_ARCH
    keys: dict
    tower: dict
    sizes: list
    swapped: bool = False
    norm_offset: float = 0.0
    blocks: int | None = None
    others: dict = field(default_factory=dict)


def build(model_class, config):
    config._attn_implementation = "eager"
    return model_class(config)


def tower_keys(projector, image_size, blocks, eps, **more):
    """What every mmproj file says; `more` are keys below clip.vision."""
    keys = {
        "image_size": image_size,
        "patch_size": PATCH,
        "embedding_length": TOWER["hidden_size"],
        "feed_forward_length": TOWER["intermediate_size"],
        "projection_dim": TEXT["hidden_size"],
        "block_count": blocks,
        "attention.head_count": TOWER["num_attention_heads"],
        "attention.layer_norm_epsilon": eps,
        "image_mean": MEAN,
        "image_std": STD,
        **more,
    }
    named = {f"clip.vision.{key}": value for key, value in keys.items()}
    return {"clip.has_vision_encoder": True, "clip.projector_type": projector} | named


def processor_of(processor_class, **fields):
    return processor_class(image_mean=MEAN, image_std=STD, **fields)


def square(size):
    return {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}


def clip(image_size, layers, **fields):
    fields = TOWER | {"image_size": image_size, "num_hidden_layers": layers} | fields
    return transformers.CLIPVisionConfig(layer_norm_eps=2e-3, projection_dim=8, **fields)


def qwen2():
    return transformers.Qwen2Config(**TEXT, rope_parameters=rope(70000.0))


def llava15():
    """The last block but one, quick GELU, the names of older converters."""
    text, size = qwen2(), 16
    config = transformers.LlavaConfig(
        vision_config=clip(size, 3), text_config=text, image_token_index=IMAGE_TOKEN,
        vision_feature_layer=-2,
    )  # fmt: skip
    crop, pad = (
        processor_of(transformers.LlavaImageProcessorPil, do_pad=do_pad, **square(size))
        for do_pad in (False, True)
    )
    return VisionGolden(
        build(transformers.LlavaForConditionalGeneration, config),
        crop,
        MODEL_ARCH.QWEN2,
        {"rope.freq_base": 70000.0},
        tower_keys("mlp", size, 2, 2e-3) | {"clip.use_gelu": False},
        [(37, 26)],
        swapped=True,
        blocks=2,
        others={"pad": pad},
    )


def llava16():
    """Tiles with newlines, two hidden states joined, GELU."""
    text, size = qwen2(), 16
    pinpoints = [[16, 32], [32, 16], [32, 32], [48, 16], [16, 48]]
    config = transformers.LlavaNextConfig(
        vision_config=clip(size, 3, hidden_act="gelu"), text_config=text,
        image_token_index=IMAGE_TOKEN, vision_feature_layer=[-3, -2],
        image_grid_pinpoints=pinpoints,
    )  # fmt: skip
    processor = processor_of(
        transformers.LlavaNextImageProcessorPil, image_grid_pinpoints=pinpoints, **square(size)
    )
    more = {
        "image_grid_pinpoints": [side for pinpoint in pinpoints for side in pinpoint],
        "mm_patch_merge_type": "spatial_unpad",
        "feature_layer": [1, 2],
    }
    return VisionGolden(
        build(transformers.LlavaNextForConditionalGeneration, config),
        processor,
        MODEL_ARCH.QWEN2,
        {"rope.freq_base": 70000.0},
        tower_keys("mlp", size, 2, 2e-3, **more) | {"clip.use_gelu": True},
        [(26, 37)],
        blocks=2,
    )


def mrope():
    return {**rope(30000.0), "mrope_section": [1, 2, 3]}


QWEN_KEYS = {"rope.freq_base": 30000.0, "rope.dimension_sections": [1, 2, 3, 0]}


def qwen2vl():
    """Rotation by row and column, a merger, positions in three sections."""
    vision = {
        "depth": 2, "embed_dim": 16, "hidden_size": 24, "num_heads": 2, "mlp_ratio": 2,
        "patch_size": PATCH, "spatial_merge_size": 2,
    }  # fmt: skip
    config = transformers.Qwen2VLConfig(
        vision_config=vision, text_config={**TEXT, "rope_parameters": mrope()},
        image_token_id=IMAGE_TOKEN, video_token_id=0, vision_start_token_id=0,
    )  # fmt: skip
    limits = {"image_min_pixels": 600, "image_max_pixels": 900}
    return VisionGolden(
        build(transformers.Qwen2VLForConditionalGeneration, config),
        qwen_processor(600, 900),
        MODEL_ARCH.QWEN2VL,
        QWEN_KEYS,
        # The converter writes the output's width there.
        tower_keys("qwen2vl_merger", 560, 2, 1e-6, **limits, feed_forward_length=24),
        [(43, 26), (15, 21)],
    )


def qwen25vl():
    """Windows in all blocks but every second, RMSNorm, a gate."""
    vision = {
        "depth": 3, "hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 24,
        "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": 2, "window_size": 16,
        "fullatt_block_indexes": [1],
    }  # fmt: skip
    config = transformers.Qwen2_5_VLConfig(
        vision_config=vision, text_config={**TEXT, "rope_parameters": mrope()},
        image_token_id=IMAGE_TOKEN, video_token_id=0, vision_start_token_id=0,
    )  # fmt: skip
    more = {"n_wa_pattern": 2, "window_size": 16, "image_min_pixels": 64}
    return VisionGolden(
        build(transformers.Qwen2_5_VLForConditionalGeneration, config),
        qwen_processor(64, 10**6),
        MODEL_ARCH.QWEN2VL,
        QWEN_KEYS,
        tower_keys("qwen2.5vl_merger", 560, 3, 1e-6, **more) | {"clip.use_silu": True},
        [(43, 26), (15, 21)],
    )


def qwen_processor(least, most):
    return processor_of(
        transformers.Qwen2VLImageProcessorPil, patch_size=PATCH, merge_size=2,
        temporal_patch_size=2, size={"shortest_edge": least, "longest_edge": most},
    )  # fmt: skip


def gemma3():
    """SigLIP, squares of patches averaged, images of more tokens than the window is wide."""
    size, window = 24, 4
    text = transformers.Gemma3TextConfig(
        **TEXT | {"num_hidden_layers": 2, "tie_word_embeddings": True},
        head_dim=12, query_pre_attn_scalar=12, sliding_window=window,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={"full_attention": rope(90000.0), "sliding_attention": rope(8000.0)},
    )  # fmt: skip
    vision = transformers.SiglipVisionConfig(
        **TOWER, image_size=size, num_hidden_layers=2, layer_norm_eps=2e-3, vision_use_head=False
    )
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=9,
        image_token_index=IMAGE_TOKEN, boi_token_index=0, eoi_token_index=0,
    )  # fmt: skip
    size_fields = {"size": {"height": size, "width": size}}
    keys = {
        "attention.key_length": 12, "attention.value_length": 12, "rope.freq_base": 90000.0,
        "rope.freq_base_swa": 8000.0, "attention.sliding_window": window,
        "attention.sliding_window_pattern": 2,
    }  # fmt: skip
    scale = {"projector.scale_factor": 2}
    return VisionGolden(
        build(transformers.Gemma3ForConditionalGeneration, config),
        processor_of(transformers.Gemma3ImageProcessorPil, do_pan_and_scan=False, **size_fields),
        MODEL_ARCH.GEMMA3,
        keys,
        tower_keys("gemma3", size, 2, 2e-3, **scale) | {"clip.use_gelu": True},
        [(37, 26), (20, 25)],
        norm_offset=1.0,
    )


MODELS = {make.__name__: make for make in (llava15, llava16, qwen2vl, qwen25vl, gemma3)}


def inputs_of(processor, images):
    """What the processor makes of images, but for what the models do not take."""
    inputs = processor(images=images, return_tensors="pt")
    return {key: value for key, value in inputs.items() if key != "num_crops"}


def token_types(model, kinds):
    """How the model wants to be told which tokens are images."""
    name = type(model).__name__
    if name.startswith("Gemma3"):
        return {"token_type_ids": kinds}
    return {"mm_token_type_ids": kinds} if name.startswith("Qwen") else {}


def features(model, inputs):
    """The tokens (T, D) of one image."""
    found = model.get_image_features(**inputs).pooler_output
    while not torch.is_tensor(found):
        (found,) = found
    return found.reshape(-1, found.shape[-1])
