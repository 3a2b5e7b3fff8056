#include "hub/kernel_repo.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "core/error.h"
#include "hub/kernel_lock.h"
#include "hub/kernel_mapping.h"
#include "hub/kernel_property.h"
#include "hub/kernel_store.h"

namespace tessera::hub {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

SystemTarget cuda(int major, int minor) {
  return {.backend = {KernelBackend::kCuda, {major, minor}}, .tvm_ffi = kTvmFfiVersion};
}

std::string reason(const std::string& name, const SystemTarget& target) {
  const VariantTrace trace = resolve_variants({name}, target);
  return trace.decisions.empty() ? "unknown" : trace.decisions.front().refused;
}

TEST(KernelVariant, EveryFormOfAName) {
  auto v = parse_kernel_variant("torch212-cxx11-cu130-x86_64-linux").value();
  EXPECT_EQ(v.framework, KernelFramework::kTorch);
  EXPECT_EQ(v.framework_version, (MajorMinor{2, 12}));
  EXPECT_EQ(v.cxx11_abi, true);
  EXPECT_EQ(v.backend.text(), "cu130");
  EXPECT_EQ(v.backend.version, (MajorMinor{13, 0}));
  EXPECT_EQ(v.cpu + "/" + v.os, "x86_64/linux");
  EXPECT_EQ(parse_kernel_variant("torch29-cxx98-cpu-aarch64-linux")->cxx11_abi, false);
  EXPECT_EQ(parse_kernel_variant("torch213-metal-aarch64-darwin")->cxx11_abi, std::nullopt);
  v = parse_kernel_variant("torch-stable-abi29-cu126-x86_64-linux").value();
  EXPECT_EQ(v.framework, KernelFramework::kTorchStableAbi);
  EXPECT_EQ(v.framework_version, (MajorMinor{2, 9}));
  v = parse_kernel_variant("tvm-ffi01-xpu20253-x86_64-linux").value();
  EXPECT_EQ(v.framework, KernelFramework::kTvmFfi);
  EXPECT_EQ(v.framework_version, (MajorMinor{0, 1}));
  EXPECT_EQ(v.backend.version, (MajorMinor{2025, 3}));
  EXPECT_EQ(parse_kernel_variant("tvm-ffi112-rocm72-x86_64-linux")->framework_version, (MajorMinor{1, 12}));
  v = parse_kernel_variant("torch-cuda").value();
  EXPECT_EQ(v.framework, KernelFramework::kNoarch);
  EXPECT_EQ(v.backend_name(), "cuda");
  for (const char* backend : {"cpu", "cann85", "neuron", "tpu", "metal"})
    EXPECT_TRUE(parse_kernel_variant(fmt::format("tvm-ffi01-{}-x86_64-linux", backend))) << backend;
}

TEST(KernelVariant, WhatIsNoName) {
  for (const char* name : {"", "build", "cu130-x86_64-linux", "tvm-ffi-cpu-x86_64-linux", "tvm-ffi0-cpu-x86_64-linux",
                           "tvm-ffi01-cu1-x86_64-linux", "tvm-ffi01-cpu-x86_64", "tvm-ffi01-cpu-x86_64-linux-gnu",
                           "tvm-ffi01-gpu-x86_64-linux", "torch2-cpu-x86_64-linux", "torch-stable-abi", "../torch-cpu",
                           "torch-cpu/x", "tvm-ffi01-cu99999999999-x86_64-linux", "jax05-cpu-x86_64-linux"})
    EXPECT_FALSE(parse_kernel_variant(name)) << name;
}

TEST(ResolveVariants, ReasonsAreThoseOfPythonsClient) {
  const SystemTarget target = cuda(12, 8);
  EXPECT_EQ(reason("tvm-ffi01-cu128-aarch64-linux", target), "CPU (aarch64) does not match system CPU (x86_64)");
  EXPECT_EQ(reason("tvm-ffi01-cu128-x86_64-windows", target), "OS (windows) does not match system OS (linux)");
  EXPECT_EQ(reason("tvm-ffi02-cu128-x86_64-linux", target),
            "tvm-ffi version (0.2) does not match environment tvm-ffi version (0.1)");
  EXPECT_EQ(reason("torch212-cxx11-cu128-x86_64-linux", target),
            "Torch version (2.12) does not match environment Torch version (None)");
  EXPECT_EQ(reason("torch-stable-abi29-cu128-x86_64-linux", target),
            "Torch stable ABI version (2.9) is too new for environment Torch version (None)");
  EXPECT_EQ(reason("tvm-ffi01-cu130-x86_64-linux", target),
            "CUDA version (13.0) is not compatible with system CUDA version (12.8)");
  EXPECT_EQ(reason("tvm-ffi01-cu129-x86_64-linux", target),
            "CUDA version (12.9) is not compatible with system CUDA version (12.8)");
  EXPECT_EQ(reason("tvm-ffi01-cu126-x86_64-linux", target), "");
  EXPECT_EQ(reason("tvm-ffi01-cpu-x86_64-linux", target), "backend (cpu) does not match selected backend (cu128)");
  EXPECT_EQ(reason("torch-rocm", target), "backend (rocm) does not match system backend (cuda) and is not universal");
  EXPECT_EQ(reason("torch-cuda", target), "is Python code (PyTorch or Triton), which this program does not run");
  EXPECT_THAT(reason("torch-universal", target), HasSubstr("Python code"));
}

TEST(ResolveVariants, OrderOfPreference) {
  SystemTarget target = cuda(13, 2);
  target.torch = MajorMinor{2, 12};
  target.torch_cxx11_abi = true;
  target.runs_python = true;
  const VariantTrace trace = resolve_variants(
      {"torch-universal", "tvm-ffi01-cu130-x86_64-linux", "torch-cuda", "torch212-cxx11-cu132-x86_64-linux", "nonsense",
       "tvm-ffi01-cu132-x86_64-linux", "torch-stable-abi29-cu130-x86_64-linux", "torch212-cu130-x86_64-linux",
       "torch-stable-abi211-cu130-x86_64-linux", "torch213-cu130-x86_64-linux", "torch212-cu132-x86_64-linux"},
      target);
  std::vector<std::string> names;
  for (const VariantDecision& d : trace.decisions) names.push_back(d.variant.name);
  EXPECT_THAT(names, ElementsAre("torch-stable-abi211-cu130-x86_64-linux", "torch-stable-abi29-cu130-x86_64-linux",
                                 "torch212-cu132-x86_64-linux", "torch212-cu130-x86_64-linux",
                                 "torch212-cxx11-cu132-x86_64-linux", "tvm-ffi01-cu132-x86_64-linux",
                                 "tvm-ffi01-cu130-x86_64-linux", "torch-cuda", "torch-universal",
                                 "torch213-cu130-x86_64-linux"));
  EXPECT_THAT(trace.unknown, ElementsAre("nonsense"));
  EXPECT_THAT(trace.text(), StartsWith("torch-stable-abi211-cu130-x86_64-linux compatible, preferred ✅\n"
                                       "torch-stable-abi29-cu130-x86_64-linux compatible ✅\n"));
  EXPECT_EQ(resolve_variants({"torch-cuda"}, cuda(13, 0)).chosen(), nullptr);
}

TEST(KernelMetadata, ReadsWhatKernelBuilderWrites) {
  const KernelMetadata m = parse_kernel_metadata(R"({"id": "_relu_cuda_1a2b", "name": "relu", "version": 1,
    "license": "Apache-2.0", "kernels-minver": "0.16.0", "python-depends": ["tvm-ffi"],
    "kernel-depends": [{"repo-id": "org/other", "version": 2}], "backend": {"type": "cuda", "archs": ["9.0a"]},
    "digest": {"algorithm": "sha256", "files": {"a.so": "ofzkNjhU/4iM/0uOeHXWAMJoI5BBKoz3mzfQsRFIsPo="}},
    "provenance": {"kernel-builder": {"version": "0.1", "commit": "aa", "dirty": false},
                   "kernel": {"commit": "bb", "dirty": true}}, "later": 1})",
                                                 "m");
  EXPECT_EQ(m.id + " " + m.name + " " + m.backend, "_relu_cuda_1a2b relu cuda");
  EXPECT_EQ(m.kernel_depends.at(0).text(), "org/other (version: 2)");
  EXPECT_TRUE(m.dirty());
  KernelDigest actual{"sha256", {{"b.so", "x"}}};
  EXPECT_THAT(digest_violations(*m.digest, actual), ElementsAre("Missing file: a.so", "Unknown file: b.so"));
}

TEST(KernelMetadata, BadOnesAreRefusedByField) {
  auto with = [](const std::string& more) {
    return message_of([&] {
      parse_kernel_metadata(
          R"({"id": "x", "name": "relu", "version": 1, "license": "MIT", "backend": {"type": "cpu"})" + more + "}",
          "m");
    });
  };
  EXPECT_EQ(with(""), "");
  EXPECT_THAT(with(R"(,"backend": {"type": "abacus"})"), HasSubstr("'abacus' is unknown"));
  EXPECT_THAT(with(R"(,"name": "Relu_x")"), HasSubstr("'Relu_x' is no kernel's name"));
  EXPECT_THAT(with(R"(,"version": -1)"), HasSubstr("\"version\" is no whole number"));
  EXPECT_THAT(with(R"(,"digest": {"algorithm": "md5", "files": {}})"), HasSubstr("'md5'; expected sha256 or sha512"));
  EXPECT_THAT(with(R"(,"digest": {"algorithm": "sha256", "files": {"../a": "x"}})"), HasSubstr("leaves its folder"));
  EXPECT_THAT(with(R"(,"digest": {"algorithm": "sha256", "files": {"a": "abc="}})"), HasSubstr("no sha256 in base64"));
  EXPECT_THAT(with(R"(,"kernel-depends": [{"repo-id": "o/n", "version": 1, "revision": "main"}])"),
              HasSubstr("either \"version\" or \"revision\""));
  EXPECT_THAT(message_of([] { parse_kernel_metadata("[]", "m"); }), HasSubstr("expected a JSON object"));
}

TEST(KernelMetadata, ArchitecturesAndCapabilities) {
  EXPECT_TRUE(archs_support_capability({"8.0"}, 86));
  EXPECT_FALSE(archs_support_capability({"8.0"}, 90));
  EXPECT_TRUE(archs_support_capability({"8.0+PTX"}, 90));
  EXPECT_TRUE(archs_support_capability({"9.0a"}, 90));
  EXPECT_FALSE(archs_support_capability({"10.0a"}, 103));
  EXPECT_TRUE(archs_support_capability({"10.0f"}, 103));
  EXPECT_TRUE(archs_support_capability({"next"}, 90));
  EXPECT_TRUE(archs_support_capability({}, 90));
}

TEST(KernelStatus, RedirectsAndNothingElse) {
  const KernelRedirect r =
      parse_kernel_status("kind = \"redirect\"\ndestination = 'org/new'\nrevision = \"v2\"\n", "s");
  EXPECT_EQ(r.repo + "@" + r.revision, "org/new@v2");
  EXPECT_EQ(parse_kernel_status("kind = \"redirect\"\ndestination = \"o/n\"", "s").revision, "main");
  for (const char* text : {"", "kind = 'gone'", "kind = 'redirect'", "kind = 'redirect'\ndestination = '../x'",
                           "kind = 'redirect'\ndestination = 'o/n'\nrevision = '../..'", "kind = ["})
    EXPECT_NE(message_of([&] { parse_kernel_status(text, "s"); }), "") << text;
}

TEST(KernelDependencies, AreReadOutOfAnyProject) {
  const std::string project = R"(# a project
[project]
name = "x" # a comment
description = """a
[tool.kernels.dependencies]
"not/this" = 9 """
authors = [{name = "A [b]", x = 'y'}, # {
  {name = "C"}]
released = 1979-05-27
[[tool.other]]
"tool.kernels.dependencies" = 3
[ tool . "kernels".dependencies ]
"org/\u0061" = 1
'org/b'=22 # twenty-two
)";
  const auto found = parse_kernel_dependencies(project, "p");
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].text() + found[1].text(), "org/a (version: 1)org/b (version: 22)");
  auto message = [](const std::string& text) { return message_of([&] { parse_kernel_dependencies(text, "p"); }); };
  EXPECT_THAT(message("a = 1\n\nb = \"x"), HasSubstr("p: line 3: a string that does not end"));
  for (const char* text : {"a", "a =", "= 1", "[a", "[]", "a = [1", "a = 1\n2", "a = 'x' y", "a = \"\\q\"",
                           "a = \"\\ud800\"", "a = 1\na = 2", "a = '''", "a.b.", "[.]", "a = {"})
    EXPECT_THAT(message(text), HasSubstr("p: line")) << text;
}

TEST(KernelLocks, WrittenAsPythonDoesAndReadAgain) {
  KernelLocks locks;
  const std::string a(40, 'a'), b(40, 'b'), hash(64, 'c');
  locks[{.repo = "org/z", .version = 2}] = {b, {{"build/tvm-ffi01-cpu-x86_64-linux/z.so", hash}}};
  locks[{.repo = "org/a", .version = std::nullopt, .revision = "main"}].commit = a;
  locks[{.repo = "org/a", .version = 10}].commit = a;
  const std::string text = kernel_locks_text(locks);
  EXPECT_THAT(text, StartsWith("[\n  {\n    \"dependency\": {\n      \"repo-id\": \"org/a\",\n      \"version\": 10\n"
                               "    },\n    \"lock\": {\n      \"commit\": \"aaaa"));
  KernelLocks again = parse_kernel_locks(text, "lock");
  add_file_locks(again, file_locks_text(locks), "files");
  EXPECT_EQ(kernel_locks_text(again), text);
  EXPECT_EQ(file_locks_text(again), file_locks_text(locks));
  again.begin()->second.commit = b;
  EXPECT_THAT(message_of([&] { add_file_locks(again, file_locks_text(locks), "files"); }), HasSubstr("lock again"));
  EXPECT_THAT(message_of([&] { parse_kernel_locks("[{\"dependency\":{}}]", "lock"); }),
              HasSubstr("\"lock\" is missing"));
  const std::string older = "[{\"repo_id\": \"o/n\", \"sha\": \"" + a + "\", \"variants\": {}}]";
  EXPECT_EQ(parse_kernel_locks(older, "lock").begin()->second.commit, a);
}

TEST(KernelMapping, SmallestIntervalThenMode) {
  const KernelMapping mapping = parse_kernel_mapping(R"({
    "RMSNorm": {"cuda": [{"repo": "o/wide", "version": 1},
                         {"repo": "o/hopper", "version": 2, "capability": [90, 90], "mode": "inference"},
                         {"repo": "o/mid", "revision": "main", "capability": [80, 100], "mode": "training"},
                         {"repo": "o/hopper2", "version": 3, "capability": [90, 90], "mode": "inference"}],
                "rocm": "o/amd@v4:Norm"},
    "Other": ["o/any:Layer", {"version": 7}]})",
                                                     "mapping.json");
  auto repo = [&](const char* layer, const char* device, int capability, KernelMode mode) {
    const MappingChoice choice = choose_kernel(mapping, layer, device, capability, mode);
    return choice.row ? choice.row->kernel.repo : choice.why;
  };
  EXPECT_EQ(repo("RMSNorm", "cuda", 90, KernelMode::kInference), "o/hopper2");
  EXPECT_EQ(repo("RMSNorm", "cuda", 90, KernelMode::kTraining), "No repository for `RMSNorm` for mode training");
  EXPECT_EQ(repo("RMSNorm", "cuda", 86, KernelMode::kInference), "o/mid");
  EXPECT_EQ(repo("RMSNorm", "cuda", 86, KernelMode::kTraining), "o/mid");
  EXPECT_EQ(repo("RMSNorm", "cuda", 120, KernelMode::kTraining), "o/wide");
  EXPECT_EQ(repo("RMSNorm", "rocm", 94, KernelMode::kInference), "o/amd");
  EXPECT_EQ(repo("RMSNorm", "cpu", 0, KernelMode::kInference), "No layer mapping for `RMSNorm` with device type `cpu`");
  EXPECT_EQ(repo("MoE", "cpu", 0, KernelMode::kInference), "No kernel mapping found for layer `MoE`");
  EXPECT_EQ(repo("Other", "tpu", 0, KernelMode::kTraining), "o/any");
  const MappingRow* row = choose_kernel(mapping, "RMSNorm", "rocm", 94, KernelMode::kInference).row;
  EXPECT_EQ(using_line(*row), "Using layer `Norm` from repo `o/amd`");
  EXPECT_EQ(row->text(), "RMSNorm rocm fallback: o/amd (revision: v4) Norm");
}

TEST(KernelMapping, BadRowsAreNamed) {
  auto message = [](const char* text) { return message_of([&] { parse_kernel_mapping(text, "m"); }); };
  EXPECT_THAT(message(R"({"A": {"cuda": {"repo": "o/n"}}})"), HasSubstr("m: A.cuda: o/n needs either"));
  EXPECT_THAT(message(R"({"A": {"cuda": {"repo": "o/n", "version": 1, "revision": "x"}}})"), HasSubstr("needs either"));
  EXPECT_THAT(message(R"({"A": {"gpu": {"repo": "o/n", "version": 1}}})"), HasSubstr("'gpu' is no device"));
  EXPECT_THAT(message(R"({"A": {"cpu": {"repo": "o/n", "version": 1, "capability": [1, 2]}}})"), HasSubstr("of cuda"));
  EXPECT_THAT(message(R"({"A": {"cuda": {"repo": "o/n", "version": 1, "capability": [9, 2]}}})"),
              HasSubstr("[MIN, MAX]"));
  EXPECT_THAT(message(R"({"A": {"cuda": {"repo": "o/n", "version": 1, "mode": "fast"}}})"), HasSubstr("mode 'fast'"));
  EXPECT_THAT(message(R"({"A": {"cuda": {"repo": "o/n", "version": 1, "speed": 1}}})"), HasSubstr("field \"speed\""));
  EXPECT_THAT(message(R"({"A": "nothing here"})"), HasSubstr("expected ORG/NAME"));
}

// kernels-community builds for PyTorch and as Python code; so every layer of the default mapping resolves to a
// repository, and every variant of the documented build matrix is refused with its reason.
TEST(KernelMapping, TheDefaultNamesKernelsThatAreRefusedHereWithReasons) {
  const KernelMapping mapping = default_kernel_mapping();
  auto row = [&](const char* layer, const char* device) {
    const MappingRow* found = choose_kernel(mapping, layer, device, 0, KernelMode::kInference).row;
    return found ? found->kernel.text() + " " + found->function : "";
  };
  EXPECT_EQ(row("RMSNorm", "cuda"), "kernels-community/liger-kernels (version: 3) LigerRMSNorm");
  EXPECT_EQ(row("RMSNorm", "rocm"), "kernels-community/liger-kernels (version: 3) LigerRMSNorm");
  EXPECT_EQ(row("MegaBlocksMoeMLP", "cuda"), "kernels-community/megablocks (version: 1) MegaBlocksMoeMLP");
  EXPECT_EQ(row("MegaBlocksMoeMLP", "cpu"), "kernels-community/megablocks (version: 1) CPUMegaBlocksMoeMLP");
  EXPECT_EQ(row("rotary_pos_emb", "cuda"), "kernels-community/rotary (version: 2) apply_rotary_transformers");
  std::vector<std::string> matrix{"torch-cuda", "torch-rocm", "torch-universal"};
  for (const char* torch : {"torch212", "torch213", "torch-stable-abi29"})
    for (const char* backend : {"cpu", "cu126", "cu130", "cu132", "rocm71", "rocm72", "xpu20253", "xpu20260"})
      for (const char* cpu : {"x86_64", "aarch64"})
        matrix.push_back(fmt::format("{}-{}-{}-linux", torch, backend, cpu));
  for (const SystemTarget& target : {cuda(13, 0), cpu_target()}) {
    const VariantTrace trace = resolve_variants(matrix, target);
    EXPECT_EQ(trace.decisions.size(), matrix.size());
    EXPECT_EQ(trace.chosen(), nullptr);
    for (const VariantDecision& d : trace.decisions) EXPECT_FALSE(d.refused.empty()) << d.variant.name;
  }
}

TEST(KernelMapping, StringsOfAttentionImplementations) {
  const KernelString s = parse_kernel_string("org/attn@v2:flash").value();
  EXPECT_EQ(s.kernel.text() + " " + s.function, "org/attn (revision: v2) flash");
  EXPECT_EQ(parse_kernel_string("org/attn")->kernel.revision, "main");
  for (const char* text : {"", "eager", "org/attn:", "org/attn@", "org/attn:a b", "../x/y"})
    EXPECT_FALSE(parse_kernel_string(text)) << text;
}

TEST(KernelRequest, ExactlyOneOfVersionAndRevision) {
  EXPECT_EQ(kernel_request("o/n", 3, "").text(), "o/n (version: 3)");
  EXPECT_EQ(kernel_request("o/n", std::nullopt, "main").text(), "o/n (revision: main)");
  EXPECT_THAT(message_of([] { kernel_request("o/n", 3, "main"); }), HasSubstr("only one of version and revision"));
  EXPECT_THAT(message_of([] { kernel_request("o/n", std::nullopt, ""); }), HasSubstr("a version or a revision must"));
  EXPECT_THAT(message_of([] { kernel_request("../n", 1, ""); }), HasSubstr("expected ORG/NAME"));
  EXPECT_EQ(parse_local_kernels("a/b=/x:c/d=y").at("c/d"), "y");
  EXPECT_THAT(message_of([] { parse_local_kernels("a/b"); }), HasSubstr("LOCAL_KERNELS"));
}

// Seeds of every parser, with bytes changed, doubled and dropped.
TEST(KernelBytes, AnyBytesAreSurvived) {
  const std::string commit(40, 'a');
  const std::vector<std::string> seeds{
      "torch212-cxx11-cu130-x86_64-linux\ntvm-ffi01-cpu-x86_64-linux\ntorch-universal\ntorch-stable-abi29-cpu-a-b",
      R"({"id":"x","name":"relu","version":1,"license":"MIT","backend":{"type":"cuda","archs":["9.0a"]},)"
      R"("kernel-depends":[{"repo-id":"o/n","version":1}],"digest":{"algorithm":"sha256","files":{}}})",
      R"([{"dependency":{"repo-id":"o/n","version":1},"lock":{"commit":")" + commit + R"("}}])",
      R"({"format":1,"kernels":[{"dependency":{"repo-id":"o/n","version":1},"commit":")" + commit +
          R"(","files":{"build/a/b.so":")" + std::string(64, 'b') + R"("}}]})",
      R"({"A":{"cuda":[{"repo":"o/n","version":1,"capability":[80,90],"mode":"training"}],"cpu":"o/n@x:y"}})",
      "kind = \"redirect\"\ndestination = \"o/n\"\nrevision = \"main\"",
      "[tool.kernels.dependencies]\n\"o/n\" = 1\n[[x]]\na = [1, {b = 2}]",
      R"([{"type":"file","path":"build/x/a.so","size":5,"oid":")" + commit + R"(","lfs":{"oid":"x","size":5}}])",
      R"({"branches":[{"name":"v1","targetCommit":")" + commit + R"("}],"trustedKernelPublisher":true})",
      "o/n=/x:p/q=y, <https://h/x?a=1>; rel=\"next\"",
      R"({"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","messageSignature":{"messageDigest":)"
      R"({"algorithm":"SHA2_256","digest":"AAAA"},"signature":"AAAA"},)"
      R"("verificationMaterial":{"certificate":{"rawBytes":"MIIB"}}})"};
  std::mt19937 random(7);
  for (int round = 0; round < 20'000; ++round) {
    const size_t which = random() % seeds.size();
    std::string text = static_cast<char>(which) + seeds[which];
    for (unsigned edits = random() % 4; edits > 0; --edits) {
      const size_t at = 1 + random() % (text.size() - 1);
      switch (random() % 4) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + random() % 5);
          break;
        case 2:
          text.insert(at, text.substr(at, 1 + random() % 20));
          break;
        default:
          text[at] = "{}[]\",:=\n-0"[random() % 11];
      }
      if (text.size() < 2) text = "\x01{";
    }
    check_kernel_bytes(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  }
}

}  // namespace
}  // namespace tessera::hub
