"""What ran, as text: launches by kernel, and where counters were asked for, what they show."""

from zerfoo_numba.ptx.emulator.counter_table import columns

WASTEFUL = 0.5  # share of the moved bytes that a line uses, below which it is worth a remark
CROWDED = 4  # sectors that a warp's access of 4 bytes a lane needs


def report(machine):
    """Lines about a machine's launches."""
    groups = {}
    for launch in machine.launches:
        groups.setdefault((launch.kernel, launch.grid, launch.block), []).append(launch)
    rows = [
        [name, _shape(grid), _shape(block), str(len(found)), f"{sum(x.seconds for x in found):.3f}"]
        for (name, grid, block), found in groups.items()
    ]
    plural = "" if machine.launch_count == 1 else "es"
    lines = [f"{machine.description}: {machine.launch_count} launch{plural}"]
    if rows:
        lines += columns(rows, ["kernel", "grid", "block", "launches", "seconds"])
    for found in groups.values():
        if found[0].counters is not None:
            lines += ["", *str(found[0].counters).splitlines(), *remarks(found[0].counters)]
    return lines


def _shape(sizes):
    kept = list(sizes)
    while len(kept) > 1 and kept[-1] == 1:
        kept.pop()
    return " x ".join(str(n) for n in kept)


def remarks(counters):
    """Lines of the source whose warps move far more of memory than their threads ask for."""
    found = []
    for (file, line), counts in sorted(counters.lines.items()):
        for what, traffic in (("loads", counts.loads), ("stores", counts.stores)):
            wasteful = 0 < traffic.efficiency < WASTEFUL
            if wasteful and traffic.sectors_per_request > CROWDED:
                found.append(
                    f"{file}:{line} {what} are not coalesced: {traffic.sectors_per_request:.1f} "
                    f"sectors for each warp's request, {100 * traffic.efficiency:.0f} % of the "
                    "bytes moved are used"
                )
    return ["", *found] if found else []
