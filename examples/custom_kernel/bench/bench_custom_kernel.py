"""Times the built CPU library on a model's shape: python bench/bench_custom_kernel.py [LIBRARY]

`tessera kernels check DIR` times it beside the built-in kernel."""
import pathlib
import sys
import time

import numpy
import tvm_ffi

root = pathlib.Path(__file__).resolve().parent.parent
library = sys.argv[1] if len(sys.argv) > 1 else str(next(root.glob("build/tvm-ffi*-cpu-*/*.so")))
module = tvm_ffi.load_module(library)
for tokens in (1, 32, 512):
    x = numpy.random.default_rng(1).standard_normal((tokens, 2880), dtype=numpy.float32)
    arguments = [tvm_ffi.from_dlpack(a) for a in (numpy.empty_like(x), x, numpy.ones(2880, dtype=numpy.float32))]
    best = float("inf")
    for _ in range(200):
        start = time.perf_counter()
        module.rms_norm_cpu(*arguments, 1e-5)
        best = min(best, time.perf_counter() - start)
    print(f"rms_norm [{tokens}, 2880] float32: {best * 1e6:.1f} us")
