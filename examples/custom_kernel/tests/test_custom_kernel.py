"""Tests the built CPU library against NumPy: python tests/test_custom_kernel.py [LIBRARY]"""
import pathlib
import sys
import unittest

import numpy
import tvm_ffi

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIBRARY = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None


def load():
    found = [LIBRARY] if LIBRARY else sorted(map(str, ROOT.glob("build/tvm-ffi*-cpu-*/*.so")))
    if not found:
        raise SystemExit("no library: run `tessera kernels build` first")
    return tvm_ffi.load_module(found[0])


class Kernel(unittest.TestCase):
    def setUp(self):
        self.module = load()
        self.random = numpy.random.default_rng(7)

    def test_rms_norm(self):
        x = self.random.standard_normal((5, 2880), dtype=numpy.float32)
        weight = self.random.standard_normal(2880, dtype=numpy.float32)
        out = numpy.empty_like(x)
        self.module.rms_norm_cpu(*map(tvm_ffi.from_dlpack, (out, x, weight)), 1e-5)
        expected = x / numpy.sqrt((x.astype("f8") ** 2).mean(1, keepdims=True) + 1e-5) * weight
        numpy.testing.assert_allclose(out, expected, rtol=2e-6, atol=1e-6)

    def test_relu(self):
        x = self.random.standard_normal((3, 7), dtype=numpy.float32)
        out = numpy.empty_like(x)
        self.module.relu_cpu(tvm_ffi.from_dlpack(out), tvm_ffi.from_dlpack(x))
        numpy.testing.assert_array_equal(out, numpy.maximum(x, 0))

    def test_wrong_type(self):
        x = numpy.zeros((2, 4), dtype=numpy.float64)
        with self.assertRaises(TypeError):
            self.module.relu_cpu(tvm_ffi.from_dlpack(x), tvm_ffi.from_dlpack(x))


if __name__ == "__main__":
    unittest.main()
