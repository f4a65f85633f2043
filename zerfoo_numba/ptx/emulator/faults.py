"""What a kernel did wrong, said with the instruction, the source line, the thread and block."""

from zerfoo_numba.errors import DeviceError


class KernelFault(DeviceError):
    """A kernel's error that the emulator found; `kind`, `line`, `thread` and `block` locate it."""

    def __init__(self, message, kind="", file="", line=0, thread=None, block=None):
        super().__init__(message, kind, file, line, thread, block)  # all, to be pickled
        self.kind, self.file, self.line = kind, file, line
        self.thread, self.block = thread, block

    def __str__(self):
        return self.args[0]


def fault(wave, group, instruction, what, lane=None, kind="access"):
    """A `KernelFault` of one lane of a group; with `group` None, `lane` is the thread's slot."""
    thread = block = None
    who = ""
    if lane is not None:
        thread, block = wave.coordinates(lane if group is None else int(group.slots[lane]))
        who = f", thread {thread} of block {block}"
    message = f"kernel {wave.program.name}: {what}; {instruction.where}{who}"
    return KernelFault(message, kind, instruction.file, instruction.line, thread, block)
