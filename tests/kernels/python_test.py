#!/usr/bin/env python3
"""Kernels where Python meets them: the scaffold built and tested, and the program's own kernels, exported and called
through tvm_ffi with NumPy's arrays and, where it is installed, with PyTorch's tensors, on a CPU and on a GPU. Exit code
77: tvm_ffi is missing.

environment: TESSERA_PROGRAM; run by a Python that has apache-tvm-ffi and numpy."""
import base64
import hashlib
import json
import os
import pathlib
import shutil
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

try:
    import torch
except ImportError:
    torch = None

PROGRAM = os.environ["TESSERA_PROGRAM"]
BIN = str(pathlib.Path(sys.executable).parent)


def tessera(*arguments, code=0, **more):
    environment = dict(os.environ, PATH=BIN + ":" + os.environ["PATH"])
    environment.setdefault("TESSERA_TVM_FFI", sys.prefix)
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


class OnTorch:
    """The exported functions on PyTorch's tensors, beside the same computed by PyTorch in float64."""
    kinds = ()

    @classmethod
    def setUpClass(cls):
        if torch is None:
            raise unittest.SkipTest("torch is not installed")
        cls.folder = tempfile.TemporaryDirectory()
        made = json.loads(tessera("kernels", "export", cls.folder.name, "--json").stdout)
        cls.module = tvm_ffi.load_module(str(pathlib.Path(made["folder"]) / "gpt_oss_kernels.so"))
        torch.manual_seed(11)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def function(self, name):
        return getattr(self.module, "%s_%s" % (name, self.device))

    def normal(self, *shape, kind=None):
        return torch.randn(*shape, device=self.device).to(kind or torch.float32)

    def ints(self, values):
        return torch.tensor(values, dtype=torch.int32, device=self.device)

    def close(self, out, expected, products=False):
        """As the program judges: a part of the largest value, and one unit in the last place."""
        wide = out.dtype == torch.float32
        part = (1e-4 if products else 1e-5) if wide else (1e-2 if products else 1e-3)
        torch.testing.assert_close(out.double(), expected.double(), rtol=2 ** -22 if wide else 2 ** -7,
                                   atol=part * float(expected.abs().max()))

    @staticmethod
    def norm(x, weight):
        wide = x.double()
        return wide * torch.rsqrt((wide ** 2).mean(1, keepdim=True) + 1e-5) * weight

    def test_rms_norm(self):
        for kind in self.kinds:
            x, weight = self.normal(5, 2880, kind=kind), self.normal(2880)
            out = torch.empty_like(x)
            self.function("rms_norm")(out, x, weight, 1e-5)
            self.close(out, self.norm(x, weight))

    def test_add_rms_norm(self):
        for kind in self.kinds:
            x, delta, weight = self.normal(5, 2880, kind=kind), self.normal(5, 2880, kind=kind), self.normal(2880)
            out, total = torch.empty_like(x), x + delta
            self.function("add_rms_norm")(out, x, delta, weight, 1e-5)
            self.close(x, total)
            self.close(out, self.norm(x, weight))

    def test_rotary_pos_emb(self):
        for kind in self.kinds:
            x, angle = self.normal(3, 8, 64, kind=kind), torch.rand(3, 32, device=self.device) * 6
            cos, sin = angle.cos().to(kind), angle.sin().to(kind)
            a, b = x[..., :32].double(), x[..., 32:].double()
            c, s = cos.double()[:, None], sin.double()[:, None]
            expected = torch.cat([a * c - b * s, b * c + a * s], -1)
            self.function("rotary_pos_emb")(x, cos, sin)
            self.close(x, expected)

    def test_attention_with_sinks_and_window(self):
        heads, kv, size, page, contexts = 8, 2, 64, 32, [75, 40]
        for kind in self.kinds:
            for window in (0, 33):
                k, v = self.normal(6, kv, page, size, kind=kind), self.normal(6, kv, page, size, kind=kind)
                q, sinks = self.normal(2, heads, size, kind=kind), self.normal(heads)
                table = self.ints([[2, 0, 1], [5, 4, 3]])
                out = torch.empty_like(q)
                self.function("paged_attention")(out, q, k, v, table, self.ints([0, 1, 2]), self.ints(contexts), sinks, window,
                                                 0.125, 1, max(contexts))
                expected = torch.empty_like(q, dtype=torch.float64)
                for b, context in enumerate(contexts):
                    first = max(0, context - window) if window else 0
                    keys, held = ([t[table[b].long()].permute(1, 0, 2, 3).reshape(kv, -1, size)[:, first:context].double()
                                   for t in (k, v)])
                    for h in range(heads):
                        scores = torch.cat([keys[h // 4] @ q[b, h].double() * 0.125, sinks[h:h + 1].double()])
                        expected[b, h] = torch.softmax(scores, 0)[:-1] @ held[h // 4]
                self.close(out, expected, products=True)

    def test_moe_of_mxfp4(self):
        experts, hidden, inner, tokens = 4, 128, 64, 3
        table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], device=self.device)

        def weight(n, k):
            blocks = torch.randint(0, 256, (experts, n, k // 32, 16), dtype=torch.uint8, device=self.device)
            scales = torch.randint(118, 125, (experts, n, k // 32), dtype=torch.uint8, device=self.device)
            nibbles = torch.stack([blocks & 15, blocks >> 4], -1).reshape(experts, n, k // 32, 32).long()
            plain = table[nibbles].double() * torch.exp2(scales.double() - 127)[..., None]
            return blocks, scales, plain.reshape(experts, n, k)

        for kind in self.kinds:
            up_blocks, up_scales, up = weight(2 * inner, hidden)
            down_blocks, down_scales, down = weight(hidden, inner)
            x, up_bias, down_bias = self.normal(tokens, hidden, kind=kind), self.normal(experts, 2 * inner), self.normal(experts, hidden)
            chosen, mix = [[0, 3], [2, 1], [3, 2]], torch.rand(tokens, 2, device=self.device)
            out = torch.empty_like(x)
            self.function("moe_mlp")(out, x, self.ints(chosen), mix, up_blocks, up_scales, up_bias, down_blocks, down_scales,
                                     down_bias, 0, 7.0)
            expected = torch.zeros_like(x, dtype=torch.float64)
            for t in range(tokens):
                for a, e in enumerate(chosen[t]):
                    both = up[e] @ x[t].double() + up_bias[e]
                    gate, linear = both[0::2].clamp(max=7), both[1::2].clamp(-7, 7)
                    expected[t] += mix[t, a] * (down[e] @ ((linear + 1) * gate * torch.sigmoid(1.702 * gate)) + down_bias[e])
            self.close(out, expected, products=True)

    def test_refusals_are_python_errors(self):
        x = self.normal(2, 8)
        with self.assertRaisesRegex(TypeError, "expected 4 arguments, got 3"):
            self.function("rms_norm")(x, x, x)
        with self.assertRaisesRegex(TypeError, "x: expected float32"):
            self.function("rms_norm")(x, x.double(), self.normal(8), 1e-5)
        with self.assertRaisesRegex(ValueError, "not contiguous"):
            self.function("rms_norm")(x, self.normal(8, 2).T, self.normal(8), 1e-5)
        with self.assertRaisesRegex(TypeError, "eps: expected a number"):
            self.function("rms_norm")(x, x, self.normal(8), None)


class OnTorchCpu(OnTorch, unittest.TestCase):
    device = "cpu"
    kinds = (torch.float32, torch.bfloat16) if torch else ()


class OnTorchGpu(OnTorch, unittest.TestCase):
    device = "cuda"
    kinds = (torch.float32, torch.bfloat16) if torch else ()

    @classmethod
    def setUpClass(cls):
        if torch is None or not torch.cuda.is_available():
            raise unittest.SkipTest("no torch with a GPU")
        super().setUpClass()

    def test_a_tensor_of_the_other_device(self):
        x = self.normal(2, 8)
        with self.assertRaisesRegex(ValueError, "it lies on another kind of device"):
            self.function("rms_norm")(x, x, torch.ones(8), 1e-5)

    def test_runs_in_the_order_of_pytorchs_stream(self):
        x, later, out = (torch.full((4, 256), v, device="cuda") for v in (-4.0, 4.0, 0.0))
        ones, stream = torch.ones(256, device="cuda"), torch.cuda.Stream()
        call = self.function("rms_norm")
        with torch.cuda.stream(stream):
            call(out, x, ones, 0.0)
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(200_000_000)  # about 0.1 s
            x.copy_(later)
            call(out, x, ones, 0.0)
            x.fill_(-4)
        self.assertFalse(stream.query(), "the call waited, or the delay was too short")
        stream.synchronize()
        torch.testing.assert_close(out, torch.ones_like(out))


class Project(unittest.TestCase):
    """init, build, check and use as one run, outside of this repository."""

    def run_project(self, project, name, *build):
        built = json.loads(tessera("kernels", "build", project, "--json", *build).stdout)
        by_backend = {v["variant"].split("-")[2]: v for v in built["variants"]}
        self.assertEqual(by_backend["cpu"]["functions"], ["relu_cpu", "rms_norm_cpu"])
        for made in built["variants"]:
            folder = pathlib.Path(made["folder"])
            metadata = json.loads((folder / "metadata.json").read_text())
            self.assertEqual((metadata["name"], metadata["id"]), (name, name.replace("-", "_")))
            for file, digest in metadata["digest"]["files"].items():
                self.assertEqual(digest, base64.b64encode(hashlib.sha256((folder / file).read_bytes()).digest()).decode())
        checked = json.loads(tessera("kernels", "check", project, "--json").stdout)
        self.assertTrue(checked["ok"], checked)
        self.assertEqual({c["layer"] for c in checked["checks"]}, {"RMSNorm"})
        self.assertTrue(all(t["builtin_microseconds"] > 0 for c in checked["checks"] for t in c["times"]))
        subprocess.run([sys.executable, "%s/tests/test_%s.py" % (project, name.replace("-", "_"))], check=True, timeout=200)
        used = tessera("generate", "models/glossary", "-p", "Tea", "--greedy", "--max-tokens", "2", "--dtype", "float32", "--log-level",
                       "info", "--use-kernels", "RMSNorm=" + project, cwd=pathlib.Path(__file__).parents[2])
        self.assertIn("Using layer `RMSNorm` from repo", used.stderr)
        self.assertNotIn("is not used", used.stderr)
        return by_backend

    def test_init_build_check_and_its_own_tests(self):
        with tempfile.TemporaryDirectory() as folder:
            project = folder + "/my-norm"
            tessera("kernels", "init", project)
            tessera("kernels", "init", project, code=2)  # it is there now
            self.without_cuda(project)
            self.run_project(project, "my-norm")

    def test_the_example(self):
        with tempfile.TemporaryDirectory() as folder:
            project = folder + "/custom_kernel"
            shutil.copytree(pathlib.Path(__file__).parents[2] / "examples" / "custom_kernel", project,
                            ignore=shutil.ignore_patterns("build", ".cmake-build"))
            self.without_cuda(project)
            self.run_project(project, "custom-kernel")
            module = tvm_ffi.load_module(next(map(str, pathlib.Path(project).glob("build/tvm-ffi*-cpu-*/*.so"))))
            x = numpy.array([[-1, 2], [3, -4]], "f4")
            module.relu_cpu(*map(tvm_ffi.from_dlpack, (x, x)))
            numpy.testing.assert_array_equal(x, [[0, 2], [3, 0]])

    def test_cuda_sources_become_a_variant(self):
        if not shutil.which("nvcc") and not os.path.exists("/usr/local/cuda/bin/nvcc"):
            self.skipTest("nvcc is not installed")
        with tempfile.TemporaryDirectory() as folder:
            project = folder + "/with-gpu"
            tessera("kernels", "init", project)
            # CUDA's static runtime needs the GLIBC of the system that it is built on.
            made = self.run_project(project, "with-gpu", "--abi-floor", "none")
            (cuda,) = [v for backend, v in made.items() if backend.startswith("cu")]
            self.assertEqual(cuda["functions"], ["relu_cuda", "rms_norm_cuda"])
            self.assertEqual(json.loads((pathlib.Path(cuda["folder"]) / "metadata.json").read_text())["backend"]["type"], "cuda")

    @staticmethod
    def without_cuda(project):
        subprocess.run(["cmake", "-S", project, "-B", project + "/.cmake-build", "-DWITH_CUDA=OFF"], check=True,
                       stdout=subprocess.DEVNULL, env=dict(os.environ, PATH=BIN + ":" + os.environ["PATH"]))


if __name__ == "__main__":
    unittest.main()
