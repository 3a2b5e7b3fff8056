// Kernels from outside: good ones compute rows of the choice table, bad ones are refused by name and the built-in rows
// serve. Needs libtvm_ffi.so (`pip install apache-tvm-ffi`, TESSERA_TVM_FFI); skipped, and said so, without it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <random>

#include "core/error.h"
#include "core/json.h"
#include "kernels/explain.h"
#include "kernels/hub/attach.h"
#include "kernels/hub/call_speed.h"
#include "kernels/hub/kinds.h"
#include "kernels/hub/package.h"

namespace tessera::hub_kernels {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// A folder that goes away.
struct Folder {
  std::string path =
      (fs::temp_directory_path() / fmt::format("tessera-hub-{}-{}", getpid(), std::random_device()())).string();
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
};

class HubKernels : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    if (!Runtime::try_open(&why)) GTEST_SKIP() << why;
  }

  std::vector<Attached> attach_one(Kernels& kernels, const std::string& library, const std::string& function,
                                   double timeout_s = 60, const std::string& layer = "RMSNorm") {
    const HubLayer one{.layer = layer, .repo = "org/name", .revision = "v1", .library = library, .name = function};
    return attach(kernels, std::span(&one, 1),
                  {.device = {},
                   .device_name = "test",
                   .trial_timeout_s = timeout_s,
                   .checker = TESSERA_PROGRAM,
                   .memory_folder = memory_.path});
  }

  // The row that computes an rms_norm of [tokens, 48], and why the hub's row did not.
  KernelChoice choice(const Kernels& kernels, DType type = DType::kF32) {
    space_.assign(4 * 3 * 48 + 64, 0);
    auto tensor = [&](size_t at, Shape shape, DType t) { return Tensor{space_.data() + at, shape, t, {}}; };
    const RmsNormArgs args{.residual = tensor(0, {1, 48}, type),
                           .weight = tensor(4 * 48, {48}, DType::kF32),
                           .out = tensor(8 * 48, {1, 48}, type)};
    return explain_choice(kernels.rms_norm, args);
  }

  std::string refusal_of(const std::string& function, double timeout_s = 60) {
    Kernels kernels = Kernels::builtin();
    const std::vector<Attached> attached = attach_one(kernels, TESSERA_BAD_KERNELS, function, timeout_s);
    EXPECT_TRUE(attached[0].used) << attached[0].line;
    const KernelChoice c = choice(kernels);
    EXPECT_THAT(c.row, ::testing::StartsWith("rms_norm_any_")) << "the built-in row serves";
    EXPECT_EQ(c.refused.size(), 1u);
    if (c.refused.empty()) return "";
    EXPECT_EQ(c.refused[0].first, "org/name@v1");
    return c.refused[0].second;
  }

  Folder memory_;
  std::vector<char> space_;
};

TEST_F(HubKernels, GoodKernelIsARow) {
  Kernels kernels = Kernels::builtin();
  const std::vector<Attached> attached = attach_one(kernels, TESSERA_BAD_KERNELS, "good");
  EXPECT_EQ(attached[0].line, "Using layer `good` from repo `org/name` (revision: v1)");
  EXPECT_EQ(choice(kernels).row, "org/name@v1");
  // A type that it does not take goes to the built-in row, with the kernel's own words.
  const KernelChoice bf16 = choice(kernels, DType::kBF16);
  EXPECT_THAT(bf16.refused.at(0).second, HasSubstr("TypeError: expected four arguments and float32"));
  EXPECT_TRUE(kernels.batch_invariant().rms_norm.rows[0].name != std::string("org/name@v1"));
}

// One library has a function that adds the residual too, the other leaves it to the built-in add.
class WithDelta : public HubKernels, public ::testing::WithParamInterface<std::pair<const char*, const char*>> {};

TEST_P(WithDelta, ComputesWithAndWithoutDelta) {
  Kernels kernels = Kernels::builtin();
  attach_one(kernels, GetParam().first, GetParam().second);
  ThreadPool pool(1);
  Stream stream{&pool, nullptr, nullptr};
  for (bool with_delta : {false, true}) {
    std::vector<float> x(96), delta(96), weight(48), out(96), expected_x, expected(96);
    std::mt19937 random(3);
    for (auto* v : {&x, &delta, &weight})
      for (float& f : *v) f = std::normal_distribution<float>()(random);
    expected_x = x;
    auto args = [&](std::vector<float>& r, std::vector<float>& o) {
      return RmsNormArgs{.residual = {r.data(), {2, 48}, DType::kF32, {}},
                         .delta = with_delta ? Tensor{delta.data(), {2, 48}, DType::kF32, {}} : Tensor{},
                         .weight = {weight.data(), {48}, DType::kF32, {}},
                         .out = {o.data(), {2, 48}, DType::kF32, {}}};
    };
    const KernelRow<RmsNormArgs>* row = kernels.rms_norm.choose(args(x, out));
    ASSERT_STREQ(row->name, "org/name@v1");
    row->launch(args(x, out), stream);
    Kernels::reference().rms_norm.rows[0].launch(args(expected_x, expected), stream);
    EXPECT_EQ(x, expected_x);
    for (size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], expected[i], 1e-5f);
  }
}

INSTANTIATE_TEST_SUITE_P(Libraries, WithDelta,
                         ::testing::Values(std::pair{TESSERA_BAD_KERNELS, "good"},
                                           std::pair{TESSERA_KERNELS_LIBRARY, "rms_norm"}),
                         [](const auto& info) { return info.param.second; });

TEST_F(HubKernels, TemporariesComeFromTheWorkspace) {
  Kernels kernels = Kernels::builtin();
  attach_one(kernels, TESSERA_BAD_KERNELS, "temporary");
  EXPECT_EQ(choice(kernels).row, "org/name@v1");
  EXPECT_THAT(refusal_of("greedy"), HasSubstr("does not fit into the workspace"));
}

TEST_F(HubKernels, BadKernelsAreRefusedByName) {
  EXPECT_THAT(refusal_of("wrong"), HasSubstr("wrong result: `out`"));
  EXPECT_THAT(refusal_of("does_nothing"), HasSubstr("wrong result"));
  EXPECT_THAT(refusal_of("writes_past"), HasSubstr("past the end of `out`"));
  EXPECT_THAT(refusal_of("writes_before"), HasSubstr("before `out`"));
  EXPECT_EQ(refusal_of("writes_input"), "it writes to its input `x`");
  EXPECT_THAT(refusal_of("crashes"), HasSubstr("it crashed: Aborted"));
  EXPECT_THAT(refusal_of("exits"), HasSubstr("ended the process with exit code 0"));
  EXPECT_THAT(refusal_of("throws"), HasSubstr("it"));
  EXPECT_THAT(refusal_of("wants_five"), HasSubstr("TypeError: expected 5 arguments, got 4"));
  EXPECT_THAT(refusal_of("hangs", 3), HasSubstr("did not return within 3 s"));
}

TEST_F(HubKernels, MissingSymbolAndUnknownLayer) {
  Kernels kernels = Kernels::builtin();
  const auto missing = attach_one(kernels, TESSERA_BAD_KERNELS, "no_such");
  EXPECT_FALSE(missing[0].used);
  EXPECT_THAT(missing[0].line, HasSubstr("exports no __tvm_ffi_rms_norm (it has crashes, does_nothing"));
  const auto unknown = attach_one(kernels, TESSERA_BAD_KERNELS, "good", 60, "NoLayer");
  EXPECT_THAT(unknown[0].line, HasSubstr("no layer is called that"));
  EXPECT_EQ(kernels.rms_norm.rows.size(), Kernels::builtin().rms_norm.rows.size());
}

TEST_F(HubKernels, ResultsAreRememberedByContent) {
  {
    Kernels kernels = Kernels::builtin();
    attach_one(kernels, TESSERA_BAD_KERNELS, "good");
    EXPECT_EQ(choice(kernels).row, "org/name@v1");
  }
  // What is remembered is believed: an edited memory shows that no second trial is made.
  std::string remembered;
  for (const auto& entry : fs::recursive_directory_iterator(memory_.path))
    if (entry.is_regular_file()) remembered = entry.path().string();
  ASSERT_FALSE(remembered.empty());
  write_text_file(remembered, TrialResult{.why = "as remembered", .times = {}}.json().dump());
  EXPECT_EQ(refusal_of("good"), "as remembered");
}

TEST_F(HubKernels, ChangedBytesAreNotLoaded) {
  EXPECT_THROW(
      {
        try {
          Module::load(TESSERA_BAD_KERNELS, std::string(64, 'a'));
        } catch (const Error& e) {
          EXPECT_EQ(e.code(), ErrorCode::kCorrupt);
          throw;
        }
      },
      Error);
  Folder folder;
  write_text_file(folder.path + "/a.so", "not a library");
  EXPECT_THROW(Module::load(folder.path + "/a.so"), Error);
}

// Each of several libraries stays itself, and the same one comes once.
TEST_F(HubKernels, SeveralLibraries) {
  const auto bad = Module::load(TESSERA_BAD_KERNELS), ours = Module::load(TESSERA_KERNELS_LIBRARY);
  const auto again = Module::load(TESSERA_BAD_KERNELS);
  EXPECT_NE(bad->find("good"), nullptr);
  EXPECT_EQ(bad->find("rms_norm_cpu"), nullptr);
  EXPECT_NE(ours->find("rms_norm_cpu"), nullptr);
  EXPECT_EQ(ours->find("good"), nullptr);
  EXPECT_EQ(again->find("good"), bad->find("good"));
}

TEST_F(HubKernels, WithoutACheckerNothingIsUsed) {
  Kernels kernels = Kernels::builtin();
  const HubLayer one{
      .layer = "RMSNorm", .repo = "org/name", .revision = "v1", .library = TESSERA_BAD_KERNELS, .name = "good"};
  attach(kernels, std::span(&one, 1),
         {.device = {}, .device_name = "test", .checker = "/nonexistent/tessera", .memory_folder = memory_.path});
  EXPECT_THAT(choice(kernels).refused.at(0).second, HasSubstr("it cannot be tried"));
  EXPECT_TRUE(fs::is_empty(memory_.path)) << "a trial that was not made is not remembered";
}

// A speed, so it is printed; the bound is one that only a mistake would miss.
TEST_F(HubKernels, CallOverhead) {
  const double ns = call_nanoseconds(*Runtime::open(), {}, nullptr);
  std::printf("a call through the ABI: %.0f ns\n", ns);
  EXPECT_LT(ns, 1000);
}

TEST_F(HubKernels, OurOwnKernelsAsALibrary) {
  for (const char* layer : {"RMSNorm", "rotary_pos_emb", "attention", "MoE"}) {
    const Layer& known = *find_layer(layer);
    const auto module = Module::load(TESSERA_KERNELS_LIBRARY);
    std::vector<Kind> kinds = usual_kinds(known, DeviceType::kCpu);
    const size_t first = kinds.size();
    if (known.second) kinds.push_back(usual_kinds(known, DeviceType::kCpu, true)[0]);
    for (size_t i = 0; i < kinds.size(); ++i) {
      const Kind& kind = kinds[i];
      Key key = kind.key;
      if (std::string(layer) == "MoE")
        key[6] = 3, key[7] = 2, key[8] = 96, key[9] = 64;  // small: the reference is slow
      const TrialSpec spec{.library = TESSERA_KERNELS_LIBRARY,
                           .sha256 = module->sha256(),
                           .layer = layer,
                           .function = module->find_name(i < first ? known.function : known.second, DeviceType::kCpu),
                           .key = key};
      const TrialResult result = try_in_child(spec, TESSERA_PROGRAM, 120);
      EXPECT_TRUE(result.ok) << layer << " " << kind.text << ": " << result.why;
    }
  }
}

TEST(HubPackage, FolderHasDigestsOfItsFiles) {
  Folder folder;
  const Package made = write_package(TESSERA_BAD_KERNELS, {.name = "a-name", .version = 3, .license = "MIT"},
                                     abi_floor("none"), true, folder.path);
  EXPECT_THAT(made.variant, ::testing::MatchesRegex("tvm-ffi01-cpu-(x86_64|aarch64)-linux"));
  const Json metadata = read_json_file(made.folder + "/metadata.json");
  EXPECT_EQ(metadata["id"], "a_name");
  EXPECT_EQ(metadata["version"], 3);
  EXPECT_EQ(metadata["digest"]["files"].size(), 2u);
  EXPECT_EQ(metadata["digest"]["files"]["a_name.so"].get<std::string>().size(), 44u);
  EXPECT_EQ(library_of_folder(folder.path, DeviceType::kCpu), made.folder + "/a_name.so");
  EXPECT_THROW(library_of_folder(folder.path, DeviceType::kCuda), Error);
}

TEST(HubPackage, FloorNamesWhatIsNewer) {
  ElfLibrary library;
  library.versions = {"GLIBCXX_3.4.30", "GLIBC_2.28", "GLIBC_2.34", "GLIBC_PRIVATE", "GLIBC_2.4"};
  EXPECT_EQ(above_floor(library, abi_floor("manylinux_2_28")),
            (std::vector<std::string>{"needs GLIBCXX_3.4.30; manylinux_2_28 has GLIBCXX_3.4.24",
                                      "needs GLIBC_2.34; manylinux_2_28 has GLIBC_2.28"}));
  EXPECT_TRUE(above_floor(library, abi_floor("none")).empty());
  EXPECT_THROW(abi_floor("manylinux_1"), Error);
}

// Whatever bytes change in a library, reading it ends in a value or an Error.
TEST(HubPackage, ElfReaderSurvivesAnyBytes) {
  const std::string whole = read_text_file(TESSERA_BAD_KERNELS);
  EXPECT_FALSE(read_elf(whole).exported.empty());
  std::mt19937 random(11);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes = whole;
    const int changes = 1 + static_cast<int>(random() % 8);
    for (int k = 0; k < changes; ++k) {
      const bool header = random() % 2 == 0;
      const size_t from = header ? 0 : bytes.size() - std::min<size_t>(bytes.size(), 4096);
      bytes[from + random() % (header ? 64 : bytes.size() - from)] = static_cast<char>(random());
    }
    if (random() % 4 == 0) bytes.resize(random() % bytes.size());
    try {
      read_elf(bytes);
    } catch (const Error&) {
    }
  }
}

}  // namespace
}  // namespace tessera::hub_kernels
