"""PTX texts around a few instructions."""

HEAD = ".version 8.0\n.target sm_90\n.address_size 64\n"
FILES = '.file 1 "/some/where/kernel.py"\n'
# Each thread stores %r1 to its place in the array `out`.
STORE = """
    ld.param.u64 %rd1, [out];
    mov.u32 %r90, %tid.x;
    mul.wide.u32 %rd2, %r90, 4;
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r1;
    ret;
"""


def entry(body, registers="", parameters=".param .u64 out"):
    declared = ".reg .pred %p<9>;\n.reg .b16 %rs<9>;\n.reg .b32 %r<99>;\n.reg .b64 %rd<9>;\n"
    declared += ".reg .f32 %f<9>;\n" + registers
    return f"{HEAD}.visible .entry k({parameters})\n{{\n{declared}\n{body}\n}}\n{FILES}"
