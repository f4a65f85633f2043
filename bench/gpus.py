"""GPUs by their published figures: the ceilings under which a prediction stands.

Each figure has its source in `GPU.sources`; one that could not be confirmed is None. NVIDIA
publishes no rate for dp4a. What is known is that integer dot products run on the pipeline that
multiplies 32-bit integers (Nsight Compute Profiling Guide), so its 64 results per clock and
multiprocessor are the most that dp4a can reach.
"""

from dataclasses import dataclass, field

from zerfoo_numba.errors import InputError
from zerfoo_numba.gpu_memory import GPU_MEMORY

SCHEDULERS = 4  # warp schedulers per multiprocessor, each issues one warp instruction per clock
WARP = 32
# From one kernel of a CUDA graph to the next, on an H100. Hazy Research, Look Ma, No Bubbles!
# Designing a Low-Latency Megakernel for Llama-1B, 2025. Not confirmed for the other GPUs.
BOUNDARY_US = 1.3
DP4A_OPS = 8  # four multiplies and four adds

THROUGHPUT = "CUDA C++ Best Practices Guide, Throughput of Native Arithmetic Instructions"
DOT_PRODUCTS = f"an upper bound, 32-bit integer multiply-add of: {THROUGHPUT}"
ISSUE = "CUDA C++ Programming Guide, Compute Capabilities: 4 warp schedulers per multiprocessor"


@dataclass(frozen=True)
class GPU:
    """One GPU. `fma_lanes` and `dp4a_lanes` are results per clock and multiprocessor.

    `published_tflops` is the vendor's own float32 figure, for comparison with `fma_tflops`;
    `tensor_tops` that of tensor cores with bytes, without sparsity.
    """

    name: str
    cc: tuple[int, int]
    memory_gb: int
    gb_per_s: float
    multiprocessors: int
    clock_mhz: int
    fma_lanes: int
    dp4a_lanes: int
    l2_mib: float | None
    published_tflops: float
    tensor_tops: float | None
    sources: dict[str, str] = field(repr=False)

    @property
    def bytes_per_s(self):
        return 1e9 * self.gb_per_s

    @property
    def clocks_per_s(self):
        """Clocks of all multiprocessors together."""
        return 1e6 * self.clock_mhz * self.multiprocessors

    @property
    def fma_tflops(self):
        """float32, a fused multiply-add counted as two."""
        return 2 * self.fma_lanes * self.clocks_per_s / 1e12

    @property
    def dp4a_tops(self):
        """8-bit integer, four multiplies and four adds per dp4a."""
        return DP4A_OPS * self.dp4a_lanes * self.clocks_per_s / 1e12

    @property
    def issue_per_s(self):
        """Thread-instructions that the schedulers of all multiprocessors can issue."""
        return self.issue_lanes(self.multiprocessors, self.multiprocessors * SCHEDULERS)

    def issue_lanes(self, blocks, warps):
        """Thread-instructions per second that a grid of `blocks` with `warps` in all can issue.

        A block stays on one multiprocessor, and a warp issues one instruction per clock at most.
        """
        schedulers = min(SCHEDULERS * min(blocks, self.multiprocessors), warps)
        return 1e6 * self.clock_mhz * schedulers * WARP


def _gpu(name, cc, *figures, chip, published, tensor=None, lanes=128):
    """`chip` is the source of everything but the memory and the pipelines."""
    memory = GPU_MEMORY[name]
    multiprocessors, clock, l2, tflops = figures
    sources = {
        "memory_gb": memory.source,
        "gb_per_s": memory.source,
        "multiprocessors": chip,
        "clock_mhz": chip,
        "fma_lanes": THROUGHPUT,
        "dp4a_lanes": DOT_PRODUCTS,
        "l2_mib": chip if l2 is not None else "not confirmed",
        "published_tflops": published,
        "tensor_tops": published if tensor is not None else "not confirmed",
        "issue_per_s": ISSUE,
    }
    chip = (multiprocessors, clock, lanes, 64, l2, tflops, tensor)
    return GPU(name, cc, memory.gb, memory.gb_per_s, *chip, sources)


_GA102 = GPU_MEMORY["RTX 3090"].source
_ADA = GPU_MEMORY["RTX 4090"].source
_A100 = GPU_MEMORY["A100"].source
_GA100 = "NVIDIA A100 Tensor Core GPU Architecture whitepaper"
_H100 = GPU_MEMORY["H100"].source
_H200 = GPU_MEMORY["H200"].source
_B200_DRIVER = "device attributes read from the driver of a B200, pytorch/ao pull request 4002"

# name, compute capability; multiprocessors, MHz, L2 MiB, published TFLOP/s
_TABLE = (
    _gpu("GB10", (12, 1), 48, 2418, 24.0, 31.0,
         chip="deviceQuery of the CUDA samples, run on a DGX Spark",
         published="A. Skende, NVIDIA, Hot Chips 2025"),
    _gpu("RTX 3090", (8, 6), 82, 1695, 6.0, 35.6,
         chip=_GA102, published=_GA102, tensor=284.0),
    _gpu("RTX 4090", (8, 9), 128, 2520, 72.0, 82.6,
         chip=_ADA, published=_ADA, tensor=660.6),
    _gpu("A100", (8, 0), 108, 1410, 40.0, 19.5,
         chip=_GA100, published=_A100, tensor=624.0, lanes=64),
    _gpu("H100", (9, 0), 132, 1980, 50.0, 67.0,
         chip="deviceQuery of the CUDA samples, run on an H100 80GB HBM3",
         published=_H100, tensor=1979.0),
    _gpu("H200", (9, 0), 132, 1980, None, 67.0,
         chip="the GH100 of the H100 SXM; 132 x 128 x 2 x 1.98 GHz is the datasheet's "
         "67 TFLOP/s", published=_H200, tensor=1979.0),
    _gpu("B200", (10, 0), 148, 1965, 126.5, 80.0,
         chip=f"{_B200_DRIVER}; clock: nvidia-smi, greatest SM clock",
         published="NVIDIA Blackwell Architecture Technical Brief, HGX B200"),
)  # fmt: skip

GPUS = {gpu.name: gpu for gpu in _TABLE}


def find_gpu(name):
    """The GPU called `name`, whatever the case and spaces; InputError lists what there is."""

    def plain(text):
        return text.lower().replace(" ", "").replace("-", "")

    for gpu in _TABLE:
        if plain(gpu.name) == plain(name):
            return gpu
    raise InputError(f"there is no GPU {name!r} in the table; there are {', '.join(GPUS)}")
