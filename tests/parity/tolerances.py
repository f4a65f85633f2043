"""Every tolerance of the parity tests, each with its reason.

NMSE = sum (a - b)² / sum b². All rows are meant in exact mode (float32 activations and KV cache)
unless their name says int8.
"""

from typing import NamedTuple


class Tolerance(NamedTuple):
    """The bounds a comparison must keep (None: not asked for) and why they are what they are."""

    nmse: float | None
    max_abs: float | None
    reason: str

    def twice(self):
        """The row with both bounds doubled: two float32 walks, each within it of the truth."""
        nmse = None if self.nmse is None else 2 * self.nmse
        max_abs = None if self.max_abs is None else 2 * self.max_abs
        return Tolerance(nmse, max_abs, f"twice: {self.reason}")


EXACT = Tolerance(nmse=0.0, max_abs=0.0, reason="the same arithmetic: not one bit may differ")

_ROUNDING = "a few float32 roundings an element; one has an NMSE of 1e-15"

# One operation against float64 NumPy on the same inputs.
OP = {
    "embed": EXACT,
    "norm": Tolerance(1e-12, None, _ROUNDING),
    "rope": Tolerance(1e-12, None, _ROUNDING),
    "f16_store": Tolerance(1e-7, None, "one rounding to 11 bits, whose NMSE is 2^-24"),
    "q8_0_store": Tolerance(1e-4, None, "steps of max/127: 2.5e-5 for 32 normal numbers"),
    "activation": Tolerance(1e-12, None, _ROUNDING),
    "softmax": Tolerance(1e-12, None, _ROUNDING),
    "attention": Tolerance(1e-11, None, "two float32 matrix products around a softmax"),
    "scan": Tolerance(
        1e-11, None, "a few float32 roundings a token, which decay as the state does"
    ),
    "matvec": Tolerance(1e-11, None, "a float32 sum of thousands of products, in any order"),
    "matvec_int8": Tolerance(5e-4, None, "8-bit activations: a step of max/127 in each block"),
}

# One tap, its layer fed with the reference's own input.
LAYER = {
    "float": Tolerance(1e-10, None, "a dozen operations of OP one after another"),
    "int8": Tolerance(2e-3, None, "four matvecs with 8-bit activations one after another"),
}

# The largest difference between the logits of transformers (of RWKV: of the papers' formulas) in
# float32 and in float64, over both prompts of each golden.
NOISE = {
    "commandr": 1.9e-6,
    "commandr_qk_norm": 3.1e-6,
    "falcon": 5.9e-6,
    "falcon_40b": 2.6e-6,
    "falcon_mamba": 6.8e-6,
    "gemma": 3.7e-6,
    "gpt2": 1.8e-6,
    "granite": 2.2e-6,
    "mixtral": 6.1e-6,
    "olmo2": 5.9e-6,
    "qwen2moe": 1.3e-5,
    "qwen3moe": 6.7e-6,
    "starcoder2": 3.6e-6,
    "gemma2": 2.3e-6,
    "gemma3_Q4_K_M": 6.4e-6,
    "gemma3_default": 5.3e-6,
    "gemma3_pattern": 3.4e-6,
    "llama": 5.3e-6,
    "llama_bias": 3.6e-6,
    "llama_yarn": 3.9e-6,
    "mamba": 2.1e-5,
    "mistral": 4.3e-6,
    "phi3": 6.3e-6,
    "phi3_longrope": 1.2e-5,
    "qwen2": 5.3e-6,
    "qwen3": 8.1e-6,
    "rwkv6": 2.0e-5,
    "rwkv6_older": 7.9e-6,
    "rwkv7": 6.1e-6,
    "rwkv7_ungated": 4.3e-6,
}

# The reference's logits against Hugging Face transformers in float32 on the same weights.
FOREIGN = {
    name: Tolerance(None, 10 * noise, f"10 times the measured float32 noise of {noise}")
    for name, noise in NOISE.items()
}

# The same of the models with a tower: (tokens of the first image, logits of text and images).
IMAGE_NOISE = {
    "gemma3": (1.1e-6, 5.3e-6),
    "llava15": (9.9e-6, 6.2e-6),
    "llava16": (7.5e-6, 4.8e-6),
    "qwen25vl": (5.1e-6, 2.5e-5),
    "qwen2vl": (2.7e-6, 1.1e-5),
}
IMAGE_TOKENS, IMAGE_LOGITS = (
    {
        name: Tolerance(None, 10 * both[i], f"10 times the measured float32 noise of {both[i]}")
        for name, both in IMAGE_NOISE.items()
    }
    for i in range(2)
)
# The runtime against the reference, on the models of bench/vision_models.py.
SYNTHETIC_IMAGE_TOKENS, SYNTHETIC_IMAGE_LOGITS = (
    Tolerance(None, 10 * noise, f"10 times the reference's float32 noise of {noise}").twice()
    for noise in (3.3e-5, 1.3e-5)
)
PIXELS = Tolerance(
    None, 1e-5, "one float32 division and subtraction, of values up to 4, in another order"
)

# The runtime's logits, free running, against the reference.
MODEL = {name: tolerance.twice() for name, tolerance in FOREIGN.items()}
MODEL["f16_cache"] = Tolerance(
    None, 6e-2, "llama.cpp with an f16 cache differs by up to 2.9e-2 on models of this size"
)
MODEL["q8_0_cache"] = Tolerance(
    None, 0.25, "keys and values in steps of max/127, half of what 8-bit activations may do"
)
MODEL["int8"] = Tolerance(
    None, 0.35, "llama.cpp's 8-bit kernels differ by 0.15 to 0.24 on models of this size"
)
MODEL["int8_recurrent"] = Tolerance(
    1e-2, None, "the reference with activations rounded to 8 bits differs by 5e-3: a state keeps it"
)
MODEL["gemma3-1b"] = Tolerance(
    None, 5e-4, "26 layers of 1152 with logits of deviation 2: float32 sums of up to 6912 products"
)
MODEL["full"] = Tolerance(
    1e-8, None, "a ten-thousandth of the logits: float32 through dozens of layers, far from int8"
)
