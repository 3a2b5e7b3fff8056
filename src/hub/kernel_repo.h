// A kernel repository of the hub: build/<variant>/ for many systems. Here: the names of variants, which of them serve a
// system, in which order, and why not the others. Pure: the system is passed in. Knows neither models nor ops.
//
// Filters, reasons and order are those of Python's `kernels` client, so that both choose the same variant of the same
// system; one thing is added: a program without Python refuses variants that are Python code.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hub/kernel_metadata.h"
#include "hub/kernel_signature.h"

namespace tessera::hub {

struct MajorMinor {
  int major = 0, minor = 0;

  std::string text() const;  // "13.0"
  auto operator<=>(const MajorMinor&) const = default;
};

enum class KernelFramework {
  kTorch,           // torch212-cxx11-cu130-x86_64-linux
  kTorchStableAbi,  // torch-stable-abi29-cu126-x86_64-linux
  kTvmFfi,          // tvm-ffi01-cu130-x86_64-linux
  kNoarch,          // torch-cuda, torch-universal: Python code, such as Triton's
};

enum class KernelBackend { kCpu, kCuda, kRocm, kXpu, kCann, kMetal, kNeuron, kTpu };

const char* backend_name(KernelBackend backend);  // "cpu", "cuda", "rocm", ...
std::optional<KernelBackend> backend_of_name(std::string_view name);

// A backend with its version, where it has one (cuda, rocm, xpu, cann).
struct BackendSpec {
  KernelBackend kind = KernelBackend::kCpu;
  MajorMinor version;

  std::string text() const;  // as in a variant's name: "cu130", "cpu"
  bool operator==(const BackendSpec&) const = default;
};

struct KernelVariant {
  std::string name;  // of the folder below build/
  KernelFramework framework = KernelFramework::kTvmFfi;
  MajorMinor framework_version;   // not of kNoarch
  std::optional<bool> cxx11_abi;  // of kTorch, when its name says so
  BackendSpec backend;            // not of kNoarch
  std::string cpu, os;            // "x86_64", "linux"; not of kNoarch
  std::string noarch_backend;     // of kNoarch: "cuda", "cpu", "universal", ...

  // "cuda", "cpu", "universal", ...
  std::string backend_name() const;
};

// nullopt for what is no variant's name. Total.
std::optional<KernelVariant> parse_kernel_variant(std::string_view name);

// The system that a kernel is to run on.
struct SystemTarget {
  BackendSpec backend;                // what the device is
  int capability = 0;                 // of a CUDA device, 90 for 9.0; 0: unknown, or another device
  std::string cpu = "x86_64";         // `uname -m`
  std::string os = "linux";           // `uname -s` in lower case
  std::optional<MajorMinor> tvm_ffi;  // what this program loads; nullopt: nothing
  std::optional<MajorMinor> torch;    // this program has none
  std::optional<bool> torch_cxx11_abi;
  std::optional<MajorMinor> macos;
  bool runs_python = false;  // this program does not

  std::string text() const;  // "cu130-x86_64-linux, tvm-ffi 0.1"
};

// The ABI of tvm-ffi that this program speaks.
inline constexpr MajorMinor kTvmFfiVersion{0, 1};
// This machine as a CPU target: processor and system as the operating system names them, kTvmFfiVersion.
SystemTarget cpu_target();
// The same with a CUDA device. `driver`: the newest CUDA it takes (12.8 runs what was built with 12.x, x <= 8).
SystemTarget cuda_target(MajorMinor driver, int capability);

struct VariantDecision {
  KernelVariant variant;
  std::string refused;  // why; empty: it serves this system

  bool accepted() const { return refused.empty(); }
};

struct VariantTrace {
  std::vector<VariantDecision> decisions;  // the accepted first, the best leading
  std::vector<std::string> unknown;        // folders whose names are no variant's, sorted

  const KernelVariant* chosen() const;  // null: none serves
  // A line a variant: "NAME compatible, preferred ✅", "NAME compatible ✅", "NAME: reason".
  std::string text() const;
};

// `folders`: names below build/, in any order; equal ranks are ordered by name.
VariantTrace resolve_variants(const std::vector<std::string>& folders, const SystemTarget& target);

// One file of a variant.
struct KernelFile {
  std::string name;  // below the variant's folder
  int64_t size = 0;
  std::string sha256;  // 64 digits: of the bytes that were checked
};

// A variant on this disk, every file checked (kernel_store.h makes it). Whoever loads the library hashes the bytes it
// loads and holds them against library_sha256(): the folder may have changed meanwhile.
struct LocalKernel {
  std::string repo;       // ORG/NAME
  std::string requested;  // "v1", or the revision that was asked for
  std::string commit;     // 40 digits; empty: a folder of this disk (LOCAL_KERNELS)
  KernelVariant variant;
  std::string folder;  // .../build/<variant>
  KernelMetadata metadata;
  std::optional<KernelSigner> signer;  // of a signature that fits metadata.json; nullopt: none is there
  std::vector<KernelFile> files;       // sorted by name; all of the folder but bytecode
  std::string library;                 // the shared object among `files` that holds the functions

  std::string library_path() const { return folder + "/" + library; }
  const std::string& library_sha256() const;
  // Names the kernel's content wherever it lies: SHA-256 over names and hashes of all files, 64 digits.
  std::string content_hash() const;
  std::string text() const;  // "ORG/NAME@<commit> (variant)"
};

}  // namespace tessera::hub
