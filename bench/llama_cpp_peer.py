"""llama.cpp as a process that decodes on command, through llama-cpp-python.

Started by bench.compare with the interpreter that has the package: arguments MODEL CONTEXT THREADS,
then one JSON request a line on stdin, {"prefill": [ids]} or {"decode": [ids]}, and one JSON answer
a line, {"seconds": s}. Decoding feeds the given ids one by one and samples nothing, which is what
llama-bench times.
"""

import ctypes
import json
import os
import re
import sys
import time


def main():
    answers = os.dup(1)
    os.dup2(2, 1)  # the library's own words must not mix with the answers
    import llama_cpp

    path, context, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    llama_cpp.llama_log_set(_silent(llama_cpp), ctypes.c_void_p(0))
    model_options = llama_cpp.llama_model_default_params()
    extra = os.environ.get("LLAMA_CPP_EXTRA_BUFFERS", "1") == "1"
    model_options.use_extra_bufts = extra
    model_options.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(path.encode(), model_options)
    options = llama_cpp.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch = context, 512, 512
    options.n_threads = options.n_threads_batch = threads
    session = llama_cpp.llama_init_from_model(model, options)

    def answer(record):
        os.write(answers, (json.dumps(record) + "\n").encode())

    answer({"version": f"llama-cpp-python {llama_cpp.__version__}", "extra_buffer_types": extra,
            "features": features(llama_cpp)})  # fmt: skip
    for line in sys.stdin:
        request = json.loads(line)
        if "prefill" in request:
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(session), True)
            seconds = decode(llama_cpp, session, request["prefill"], len(request["prefill"]))
        else:
            seconds = decode(llama_cpp, session, request["decode"], 1)
        answer({"seconds": seconds})


def features(llama_cpp):
    """What the build uses of the machine, by its own words: "AVX2 AVX512 ... REPACK"."""
    said = llama_cpp.llama_print_system_info().decode()
    return " ".join(re.findall(r"(\w+) = 1", said))


def _silent(llama_cpp):
    callback = llama_cpp.llama_log_callback(lambda level, text, data: None)
    main.callback = callback  # the library keeps a pointer to it
    return callback


def decode(llama_cpp, session, ids, batch):
    start = time.perf_counter()
    for at in range(0, len(ids), batch):
        part = ids[at : at + batch]
        tokens = (llama_cpp.llama_token * len(part))(*part)
        status = llama_cpp.llama_decode(session, llama_cpp.llama_batch_get_one(tokens, len(part)))
        if status:
            raise SystemExit(f"llama_decode returned {status}")
    llama_cpp.llama_synchronize(session)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
