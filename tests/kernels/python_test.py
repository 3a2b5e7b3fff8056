#!/usr/bin/env python3
"""Kernels where Python meets them: the scaffold built and tested, and the program's own kernels, exported and called
through tvm_ffi with NumPy's arrays (and PyTorch's tensors where that is installed). Exit code 77: tvm_ffi is missing.

environment: TESSERA_PROGRAM; run by a Python that has apache-tvm-ffi and numpy."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

try:
    import numpy
    import tvm_ffi
except ImportError as missing:
    print(f"skipped: {missing}; pip install apache-tvm-ffi numpy")
    sys.exit(77)

PROGRAM = os.environ["TESSERA_PROGRAM"]
BIN = str(pathlib.Path(sys.executable).parent)


def tessera(*arguments, code=0, **more):
    environment = dict(os.environ, PATH=BIN + ":" + os.environ["PATH"], TESSERA_TVM_FFI=sys.prefix)
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=500, env=environment, **more)
    assert done.returncode == code, (arguments, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done


class Export(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        made = json.loads(tessera("kernels", "export", cls.folder.name, "--json").stdout)
        cls.variant = pathlib.Path(made["folder"])
        cls.module = tvm_ffi.load_module(str(cls.variant / "gpt_oss_kernels.so"))
        cls.random = numpy.random.default_rng(5)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def normal(self, *shape):
        return self.random.standard_normal(shape, dtype=numpy.float32)

    def call(self, name, *arguments):
        views = [tvm_ffi.from_dlpack(a) if isinstance(a, numpy.ndarray) else a for a in arguments]
        getattr(self.module, name)(*views)

    def test_rms_norm(self):
        x, weight = self.normal(3, 2880), self.normal(2880)
        out = numpy.empty_like(x)
        self.call("rms_norm_cpu", out, x, weight, 1e-5)
        expected = x / numpy.sqrt((x.astype("f8") ** 2).mean(1, keepdims=True) + 1e-5) * weight
        numpy.testing.assert_allclose(out, expected, rtol=3e-6, atol=1e-6)

    def test_moe_of_mxfp4(self):
        experts, hidden, inner, tokens, active = 4, 64, 32, 3, 2
        values = numpy.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], "f4")

        def weight(n, k):
            blocks = self.random.integers(0, 256, (experts, n, k // 32, 16), dtype=numpy.uint8)
            scales = self.random.integers(120, 126, (experts, n, k // 32), dtype=numpy.uint8)
            nibbles = numpy.stack([blocks & 15, blocks >> 4], -1).reshape(experts, n, k // 32, 32)
            plain = values[nibbles] * numpy.exp2(scales.astype("f4") - 127)[..., None]
            return blocks, scales, plain.reshape(experts, n, k)

        up_blocks, up_scales, up = weight(2 * inner, hidden)
        down_blocks, down_scales, down = weight(hidden, inner)
        x, up_bias, down_bias = self.normal(tokens, hidden), self.normal(experts, 2 * inner), self.normal(experts, hidden)
        indices = numpy.array([[0, 3], [2, 1], [3, 2]], "i4")
        mix = self.random.random((tokens, active), dtype=numpy.float32)
        out = numpy.empty_like(x)
        self.call("moe_mlp_cpu", out, x, indices, mix, up_blocks, up_scales, up_bias, down_blocks, down_scales, down_bias, 0, 7.0)
        expected = numpy.zeros_like(x, dtype="f8")
        for t in range(tokens):
            for a in range(active):
                e = indices[t, a]
                both = up[e] @ x[t] + up_bias[e]
                gate, linear = numpy.minimum(both[0::2], 7), numpy.clip(both[1::2], -7, 7)
                expected[t] += mix[t, a] * (down[e] @ ((linear + 1) * gate / (1 + numpy.exp(-1.702 * gate))) + down_bias[e])
        numpy.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())

    def test_attention_with_sinks_and_window(self):
        heads, kv, size, page, window, context = 4, 2, 16, 8, 5, 19
        pages = 3
        k, v = self.normal(pages, kv, page, size), self.normal(pages, kv, page, size)
        q, sinks = self.normal(1, heads, size), self.normal(heads)
        table = numpy.array([[2, 0, 1]], "i4")
        out = numpy.empty_like(q)
        self.call("paged_attention_cpu", out, q, k, v, table, numpy.array([0, 1], "i4"), numpy.array([context], "i4"), sinks,
                  window, 0.25, 1, context)
        keys = k[table[0]].transpose(1, 0, 2, 3).reshape(kv, -1, size)[:, context - window:context]
        held = v[table[0]].transpose(1, 0, 2, 3).reshape(kv, -1, size)[:, context - window:context]
        for h in range(heads):
            scores = numpy.append(keys[h // 2] @ q[0, h] * 0.25, sinks[h]).astype("f8")
            weights = numpy.exp(scores - scores.max())
            expected = weights[:-1] / weights.sum() @ held[h // 2]
            numpy.testing.assert_allclose(out[0, h], expected, rtol=1e-4, atol=1e-5)

    def test_refusals_are_python_errors(self):
        x = self.normal(2, 8)
        with self.assertRaisesRegex(ValueError, "weight is not"):
            self.call("rms_norm_cpu", x, x, self.normal(7), 1e-5)
        with self.assertRaisesRegex(TypeError, "expected 4 arguments, got 2"):
            self.call("rms_norm_cpu", x, x)
        with self.assertRaisesRegex(TypeError, "x: expected float32"):
            self.call("rms_norm_cpu", x, x.astype("f8"), self.normal(8), 1e-5)

    def test_torch(self):
        try:
            import torch
        except ImportError:
            self.skipTest("torch is not installed")
        for kind in (torch.float32, torch.bfloat16):
            x, weight = torch.randn(5, 2880).to(kind), torch.randn(2880)
            out = torch.empty_like(x)
            self.module.rms_norm_cpu(out, x, weight, 1e-5)
            wide = x.double()
            expected = wide * torch.rsqrt((wide ** 2).mean(1, keepdim=True) + 1e-5) * weight
            torch.testing.assert_close(out.double(), expected, rtol=2 ** -8 if kind == torch.bfloat16 else 1e-5, atol=1e-5)

    def test_loaded_back_by_the_program(self):
        text = tessera("generate", "models/glossary", "-p", "Tea", "--greedy", "--max-tokens", "4",
                       cwd=pathlib.Path(__file__).parents[2]).stdout
        same = tessera("generate", "models/glossary", "-p", "Tea", "--greedy", "--max-tokens", "4", "--log-level", "info",
                       "--use-kernels", ",".join(f"{layer}={self.folder.name}"
                                                 for layer in ("RMSNorm", "MoE", "attention", "rotary_pos_emb")),
                       cwd=pathlib.Path(__file__).parents[2])
        self.assertEqual(same.stdout, text)
        self.assertIn("Using layer `RMSNorm` from repo", same.stderr)
        self.assertNotIn("is not used", same.stderr)


class Project(unittest.TestCase):
    def test_init_build_check_and_its_own_tests(self):
        with tempfile.TemporaryDirectory() as folder:
            project = folder + "/my-norm"
            tessera("kernels", "init", project)
            tessera("kernels", "init", project, code=2)  # it is there now
            # The CPU part only: nvcc takes a minute, and its runtime needs a newer system than the floor.
            subprocess.run(["cmake", "-S", project, "-B", project + "/.cmake-build", "-DWITH_CUDA=OFF"], check=True,
                           stdout=subprocess.DEVNULL, env=dict(os.environ, PATH=BIN + ":" + os.environ["PATH"]))
            built = json.loads(tessera("kernels", "build", project, "--json").stdout)
            cpu = [v for v in built["variants"] if "-cpu-" in v["variant"]][0]
            self.assertEqual(cpu["functions"], ["relu_cpu", "rms_norm_cpu"])
            checked = json.loads(tessera("kernels", "check", project, "--json").stdout)
            self.assertTrue(checked["ok"], checked)
            self.assertEqual({c["layer"] for c in checked["checks"]}, {"RMSNorm"})
            subprocess.run([sys.executable, project + "/tests/test_my_norm.py"], check=True, timeout=200)
            metadata = json.loads((pathlib.Path(cpu["folder"]) / "metadata.json").read_text())
            self.assertEqual(metadata["name"], "my-norm")


if __name__ == "__main__":
    unittest.main()
