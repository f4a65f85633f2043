"""Exact counts of what a kernel did, in total, per source line and per array."""

from dataclasses import asdict, dataclass, field, fields

_HALF = ("f16", "bf16", "f16x2", "bf16x2")
_LOGIC = {"and", "or", "xor", "not", "shl", "shr", "shf", "lop3", "bfe", "bfi", "prmt", "popc"}
_SELECT = {"setp", "selp", "set", "slct"}
_CONTROL = {"bra", "brx", "ret", "exit", "call", "nanosleep", "trap"}
_WARP = {"shfl", "vote", "match", "redux", "activemask", "elect"}
_TENSOR = {"mma", "ldmatrix", "movmatrix"}
_TWO_FLOPS = {"fma", "mad"}
_FLOPS = {"add", "sub", "mul", "div", "rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh"}


def instruction_class(instruction):
    """The kind of work of a PTX instruction, for the table of counts."""
    parts = instruction.parts
    base, kind = parts[0], parts[-1]
    if base in ("ld", "ldu", "st", "cp"):
        space = next((p for p in ("param", "shared", "local", "const") if p in parts), "global")
        return "parameter" if space == "param" else f"{space} {'store' if base == 'st' else 'load'}"
    for name, members in (
        ("control", _CONTROL), ("warp", _WARP), ("tensor", _TENSOR), ("compare/select", _SELECT),
        ("atomic", ("atom", "red")), ("barrier", ("bar", "barrier", "grid")),
        ("fence", ("membar", "fence")), ("convert", ("cvt", "cvta")), ("move", ("mov",)),
        ("dot", ("dp4a", "dp2a")),
    ):  # fmt: skip
        if base in members:
            return name
    if kind in ("f32", "f64"):
        return f"float{kind[1:]}"
    if kind in _HALF:
        return "float16"
    return "logic" if base in _LOGIC else "integer"


def flops(instruction):
    """Floating-point operations of one thread: a fused multiply-add is two."""
    base, kind = instruction.parts[0], instruction.parts[-1]
    if base == "mma":
        m, n, k = _mma_shape(instruction)
        return 2 * m * n * k / 32
    if kind not in ("f32", "f64", *_HALF):
        return 0
    per = 2 if kind.endswith("x2") else 1
    return per * (2 if base in _TWO_FLOPS else base in _FLOPS)


def _mma_shape(instruction):
    shape = next(p for p in instruction.parts if p.startswith("m") and p[1].isdigit())
    m, rest = shape[1:].split("n")
    n, k = rest.split("k")
    return int(m), int(n), int(k)


@dataclass
class Traffic:
    """Loads or stores of one memory: `requests` are warp-level, `bytes` as the threads ask."""

    requests: int = 0
    bytes: int = 0
    sectors: int = 0

    @property
    def sectors_per_request(self):
        return self.sectors / self.requests if self.requests else 0.0

    @property
    def efficiency(self):
        """Requested bytes over bytes moved; above 1 where lanes share a sector."""
        return self.bytes / (32 * self.sectors) if self.sectors else 0.0

    def add(self, other):
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))


@dataclass
class Counts:
    """Counts of a kernel, or of one source line of it."""

    thread_instructions: int = 0
    warp_instructions: int = 0
    flops: float = 0
    classes: dict[str, int] = field(default_factory=dict)  # thread instructions by class
    loads: Traffic = field(default_factory=Traffic)  # global and constant memory
    stores: Traffic = field(default_factory=Traffic)
    shared_requests: int = 0
    bank_conflicts: int = 0  # passes over the banks beyond the unavoidable
    local_requests: int = 0
    atomics: int = 0  # thread-level
    barriers: int = 0  # warp-level

    @property
    def divergence_efficiency(self):
        """Active threads over lanes issued."""
        lanes = 32 * self.warp_instructions
        return self.thread_instructions / lanes if lanes else 1.0

    def add(self, other):
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            if f.name == "classes":
                for name, n in theirs.items():
                    mine[name] = mine.get(name, 0) + n
            elif isinstance(mine, Traffic):
                mine.add(theirs)
            else:
                setattr(self, f.name, mine + theirs)


@dataclass
class ArrayTraffic:
    """Global traffic of one allocation; the unique sectors are the least it could move."""

    nbytes: int = 0
    loads: Traffic = field(default_factory=Traffic)
    stores: Traffic = field(default_factory=Traffic)
    atomics: int = 0
    unique_load_sectors: int = 0
    unique_store_sectors: int = 0


@dataclass
class Counters:
    """One launch: totals, and the same by source line `(file, line)` and by array name."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    total: Counts = field(default_factory=Counts)
    lines: dict[tuple[str, int], Counts] = field(default_factory=dict)
    arrays: dict[str, ArrayTraffic] = field(default_factory=dict)
    block_barriers: int = 0  # barriers completed by a thread block

    def __getattr__(self, name):
        if name.startswith("_") or name not in _OF_TOTAL:
            raise AttributeError(name)
        return getattr(self.total, name)

    @property
    def unique_sectors(self):
        """Sectors that any version of the kernel must move: loads and stores, each once."""
        return sum(a.unique_load_sectors + a.unique_store_sectors for a in self.arrays.values())

    def to_dict(self):
        """Plain dicts, lists and numbers, for JSON."""
        result = asdict(self)
        result["lines"] = [
            {"file": file, "line": line, **asdict(c)} for (file, line), c in self.lines.items()
        ]
        result["total"]["divergence_efficiency"] = self.total.divergence_efficiency
        result["unique_sectors"] = self.unique_sectors
        return result

    def __str__(self):
        from zerfoo_numba.ptx.emulator.counter_table import table

        return table(self)


_OF_TOTAL = {f.name for f in fields(Counts)} | {"divergence_efficiency"}
