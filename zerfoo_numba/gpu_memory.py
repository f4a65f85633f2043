"""The memory of GPUs as published: what bounds the decoding of a model that fits."""

from typing import NamedTuple


class Memory(NamedTuple):
    """`gb`: 10^9 bytes of it; `gb_per_s`: read bandwidth."""

    gb: int
    gb_per_s: float
    source: str


_B200 = (
    "device attributes read from the driver of a B200, pytorch/ao pull request 4002; "
    "capacity: NVIDIA DGX B200 datasheet"
)
GPU_MEMORY = {
    "GB10": Memory(128, 273.0, "NVIDIA DGX Spark datasheet"),
    "RTX 3090": Memory(
        24, 936.0, "NVIDIA Ampere GA102 GPU Architecture whitepaper, appendix A, GeForce RTX 3090"
    ),
    "RTX 4090": Memory(
        24, 1008.0, "NVIDIA Ada GPU Architecture whitepaper, appendix A, GeForce RTX 4090"
    ),
    "A100": Memory(80, 2039.0, "NVIDIA A100 80GB Tensor Core GPU datasheet, SXM"),
    "H100": Memory(80, 3350.0, "NVIDIA H100 Tensor Core GPU datasheet, SXM"),
    "H200": Memory(141, 4800.0, "NVIDIA H200 Tensor Core GPU datasheet, SXM"),
    # 7,680 bits at 3,996 MHz; the DGX B200 datasheet rounds it up to 64 TB/s for eight.
    "B200": Memory(180, 7672.0, _B200),
}
