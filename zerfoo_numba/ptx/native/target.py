"""The CPU that code is made for: its LLVM target machine and what its instructions offer."""

import functools
import hashlib
import threading
from dataclasses import dataclass

import llvmlite
import llvmlite.binding as llvm

_lock = threading.Lock()
GENERIC = {"x86_64": "x86-64", "aarch64": "generic", "arm64": "generic"}


@dataclass(frozen=True)
class Target:
    """`cpu` and `features` as LLVM names them; two equal targets make interchangeable code.

    `prefetch`: how many bytes before their use a stream of loads is asked for; 0 is not at all.
    """

    cpu: str
    features: str
    triple: str
    prefetch: int = 0

    @functools.cached_property
    def _names(self):
        return {f[1:] for f in self.features.split(",") if f.startswith("+")}

    @property
    def llvm_version(self):
        return llvm.llvm_version_info[0]

    @property
    def is_x86(self):
        return self.triple.startswith(("x86_64", "i686", "amd64"))

    @functools.cached_property
    def has_avx512(self):
        """512-bit vectors with byte and word operations, gathers and scatters."""
        return {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= self._names

    @property
    def has_scale(self):
        """vscalefps: times a power of two, rounded once."""
        return self.has_avx512

    @functools.cached_property
    def has_half(self):
        """Conversion between f16 and f32 in hardware."""
        return not self.is_x86 or "f16c" in self._names or self.has_avx512

    @functools.cached_property
    def dot(self):
        """How dp4a is done: (instruction, lanes at a time), or None for plain products."""
        if not self.is_x86:
            return None
        if self.has_avx512 and "avx512vnni" in self._names:
            return "vnni", 16
        if "avxvnni" in self._names:
            return "vnni", 8
        return ("madd", 8) if "avx2" in self._names else None

    @functools.cached_property
    def byte_shuffle(self):
        """(instruction, bytes at a time) that picks bytes out of 16 by number, or None."""
        if self.triple.startswith(("aarch64", "arm64")):
            return "llvm.aarch64.neon.tbl1.v16i8", 16
        if not self.is_x86:
            return None
        if self.has_avx512:
            return "llvm.x86.avx512.pshuf.b.512", 64
        return ("llvm.x86.avx2.pshuf.b", 32) if "avx2" in self._names else None

    @functools.cached_property
    def has_multishift(self):
        """vpmultishiftqb: any eight bits of 64 for each byte."""
        return self.has_avx512 and "avx512vbmi" in self._names

    @property
    def identity(self):
        """What object code depends on besides its source."""
        version = ".".join(map(str, llvm.llvm_version_info))
        own = f"{self.cpu} {self.features} {self.triple} {self.prefetch}"
        text = f"{own} {llvmlite.__version__} {version}"
        return hashlib.sha256(text.encode()).hexdigest()

    def machine(self):
        _initialize()
        return llvm.Target.from_triple(self.triple).create_target_machine(
            cpu=self.cpu, features=self.features, opt=3, codemodel="jitdefault", jit=True
        )


@functools.cache
def _initialize():
    with _lock:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()


@functools.cache
def host():
    """This machine. 512-bit vectors are used where it has them."""
    features = llvm.get_host_cpu_features()
    text = ",".join(f"{'+' if on else '-'}{name}" for name, on in sorted(features.items()))
    if features.get("avx512f"):
        text += ",-prefer-256-bit"
    cpu = llvm.get_host_cpu_name()
    return Target(cpu, text, llvm.get_process_triple(), _prefetch(cpu, features))


def _prefetch(cpu, features):
    """Measured: on a Xeon of the Sapphire Rapids generation 8 KiB ahead takes 16% off a token, half
    of that or twice as far 10%, single lines left out cost more than they save; on a Zen 4 more
    than 512 bytes lost what the CPU's own prefetching gains."""
    if not features.get("avx2"):
        return 0
    return 512 if cpu.startswith("znver") else 8192


def restricted(level):
    """This machine held down to "avx2" or to its architecture's "generic" baseline: for tests."""
    triple = llvm.get_process_triple()
    if level == "avx2":
        return Target("haswell", "+avx2,+fma,+f16c,+bmi,+bmi2,+popcnt,+lzcnt", triple)
    return Target(GENERIC.get(triple.split("-")[0], "generic"), "", triple)
