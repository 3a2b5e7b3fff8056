#include "loading/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <functional>

#include "loading/test_files.h"
#include "loading/test_plan.h"
#include "quant/mxfp4.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr auto kCorrupt = ErrorCode::kCorrupt;

std::string shared(const std::string& name) {
  return TESSERA_SOURCE_DIR "/../shared/" + name;
}

// One tensor for write_model.
struct Entry {
  std::string name;
  std::string dtype;
  std::string shape;
  std::string data;
};

void write_model(const TempFolder& folder, const std::vector<Entry>& entries, const std::string& config = "{}") {
  std::string header = "{", data;
  for (const Entry& e : entries) {
    header += fmt::format(R"({}"{}":{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", data.empty() ? "" : ",",
                          e.name, e.dtype, e.shape, data.size(), data.size() + e.data.size());
    data += e.data;
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  folder.write("config.json", config);
  folder.write("model.safetensors", safetensors_bytes(header, data));
}

std::string floats(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * 4};
}
std::string brains(const std::vector<float>& values) {
  std::string out;
  for (float f : values) {
    uint16_t b = float_to_bf16(f);
    out.append(reinterpret_cast<const char*>(&b), 2);
  }
  return out;
}
std::vector<float> as_floats(const Tensor& t) {
  std::vector<float> out;
  for (int64_t i = 0; i < t.numel(); ++i) {
    if (t.dtype == DType::kF32) out.push_back(t.f32()[i]);
    if (t.dtype == DType::kBF16) out.push_back(bf16_to_float(t.as<uint16_t>()[i]));
    if (t.dtype == DType::kF16) out.push_back(f16_to_float(t.as<uint16_t>()[i]));
  }
  return out;
}
std::vector<float> iota(size_t n) {
  std::vector<float> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = static_cast<float>(i);
  return out;
}

class CheckpointLoad : public testing::Test {
 protected:
  std::vector<LoadedRow> load(const LoadSettings& settings = {}) {
    checkpoint_.emplace(Checkpoint::open(folder_.path()));
    std::vector<LoadedRow> forecast = checkpoint_->forecast(plan_, settings),
                           rows = checkpoint_->load(plan_, settings, pool_);
    EXPECT_EQ(forecast.size(), rows.size());
    for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(forecast[i].memory_bytes, rows[i].memory_bytes);
    return rows;
  }

  TempFolder folder_;
  WeightPlan plan_;
  ThreadPool pool_{2};
  std::optional<Checkpoint> checkpoint_;
};

TEST_F(CheckpointLoad, MatrixIsMappedWhereValuesStayTheSame) {
  Weight w, v;
  plan_.matrix(w, "w", 2, 3, Split::kReplicated);
  plan_.matrix(v, "v", 1, 2, Split::kReplicated);
  write_model(folder_, {{"w", "BF16", "[2,3]", brains(iota(6))}, {"v", "F32", "[1,2]", floats({1.00390625f, 2})}});
  for (DType dtype : {DType::kBF16, DType::kF32}) {
    std::vector<LoadedRow> rows = load({.dtype = dtype});
    EXPECT_TRUE(rows[0].mapped);
    EXPECT_EQ(w.values.dtype, DType::kBF16);
    EXPECT_EQ(w.values.data, checkpoint_->tensors().find("w")->data);
    EXPECT_EQ(w.n, 2);
    EXPECT_EQ(w.k, 3);
    EXPECT_EQ(w.experts, 1);
    EXPECT_EQ(rows[1].mapped, dtype == DType::kF32);
    EXPECT_EQ(rows[1].memory_bytes, dtype == DType::kF32 ? 8 : 4);
    EXPECT_EQ(as_floats(v.values), (std::vector<float>{dtype == DType::kF32 ? 1.00390625f : 1.0f, 2}));
  }
  std::vector<LoadedRow> rows = load({.dtype = DType::kF16});
  EXPECT_EQ(w.values.dtype, DType::kF16);
  EXPECT_EQ(as_floats(w.values), iota(6));
  EXPECT_EQ(rows[0].why, "rounded to F16");
}

TEST_F(CheckpointLoad, AFileThatChangedSinceItWasOpenedIsRefused) {
  Weight w;
  plan_.matrix(w, "w", 1024, 16, Split::kReplicated);
  const std::string path = folder_.file("model.safetensors");
  const std::function<void()> changes[] = {
      [&] { fs::resize_file(path, 200); },  // its pages are gone
      [&] { fs::resize_file(path, fs::file_size(path) + 8); },
      [&] { fs::last_write_time(path, fs::last_write_time(path) + std::chrono::seconds(1)); },
  };
  for (const auto& change : changes) {
    write_model(folder_, {{"w", "F32", "[1024,16]", floats(iota(1024 * 16))}});
    Checkpoint checkpoint = Checkpoint::open(folder_.path());
    change();
    EXPECT_ERROR(checkpoint.load(plan_, {.dtype = DType::kF32}, pool_), kCorrupt, "model.safetensors", "was changed");
  }
}

TEST_F(CheckpointLoad, AFileThatIsCutWhileItIsReadIsRefused) {
  Weight w;
  plan_.matrix(w, "w", 1024, 16, Split::kReplicated);
  write_model(folder_, {{"w", "F32", "[1024,16]", floats(iota(1024 * 16))}});
  Checkpoint checkpoint = Checkpoint::open(folder_.path());
  checkpoint.load(plan_, {.dtype = DType::kF32, .deferred = true}, pool_);
  fs::resize_file(folder_.file("model.safetensors"), 200);
  std::vector<char> bytes(static_cast<size_t>(w.values.bytes()));
  EXPECT_ERROR(checkpoint.read(w.values.data, w.values.bytes(), bytes.data()), kCorrupt, "was cut");
}

TEST_F(CheckpointLoad, AShardThatTheIndexDoesNotName) {
  Weight a, b;
  plan_.matrix(a, "a", 1, 2, Split::kReplicated);
  plan_.matrix(b, "b", 1, 2, Split::kReplicated);
  write_model(folder_, {{"a", "F32", "[1,2]", floats({1, 2})}});
  fs::rename(folder_.file("model.safetensors"), folder_.file("model-00001-of-00002.safetensors"));
  write_model(folder_, {{"b", "F32", "[1,2]", floats({3, 4})}});
  fs::rename(folder_.file("model.safetensors"), folder_.file("model-00002-of-00002.safetensors"));
  folder_.write("model.safetensors.index.json", R"({"weight_map":{"a":"model-00001-of-00002.safetensors"}})");
  EXPECT_ERROR(load({.dtype = DType::kF32}), kCorrupt, "missing", "b");
  EXPECT_THAT(checkpoint_->tensors().notes(),
              testing::ElementsAre(testing::HasSubstr("are left out: model-00002-of-00002.safetensors")));
}

TEST_F(CheckpointLoad, MisalignedTensorIsCopied) {
  Weight w;
  Tensor b;
  plan_.vector(b, "b", 1);
  plan_.matrix(w, "w", 1, 2, Split::kReplicated);
  folder_.write("config.json", "{}");
  std::string header =
      R"({"w":{"dtype":"F32","shape":[1,2],"data_offsets":[2,10]},"b":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  folder_.write("model.safetensors", safetensors_bytes(header, brains({3}) + floats({1, 2})));
  std::vector<LoadedRow> rows = load({.dtype = DType::kF32});
  EXPECT_FALSE(rows[1].mapped);
  EXPECT_EQ(rows[1].why, "not aligned in the file");
  EXPECT_EQ(as_floats(w.values), (std::vector<float>{1, 2}));
  EXPECT_EQ(as_floats(b), (std::vector<float>{3}));
}

TEST_F(CheckpointLoad, VectorsAreF32RoundedToTheTypeAsked) {
  Tensor a, b, c;
  plan_.vector(a, "a", 2);
  plan_.expert_vectors(b, "b", 2, 1);
  plan_.vector(c, "c", 2);
  write_model(folder_, {{"a", "F32", "[2]", floats({1.00390625f, 2})},
                        {"b", "BF16", "[2,1]", brains({1e30f, 5})},
                        {"c", "F16", "[2]", std::string("\x01\x3c\x00\x00", 4)}});
  load({.dtype = DType::kBF16});
  EXPECT_EQ(as_floats(a), (std::vector<float>{1, 2}));
  EXPECT_EQ(b.dtype, DType::kF32);
  EXPECT_EQ(b.shape, (Shape{2, 1}));
  EXPECT_EQ(as_floats(b)[0], bf16_to_float(float_to_bf16(1e30f)));
  EXPECT_EQ(as_floats(c), (std::vector<float>{1, 0}));  // 1 + 2^-10 in F16 is no BF16
  std::vector<LoadedRow> rows = load({.dtype = DType::kF32});
  EXPECT_TRUE(rows[0].mapped);
  EXPECT_EQ(as_floats(a)[0], 1.00390625f);
  EXPECT_EQ(as_floats(c)[0], 1.0009765625f);
  load({.dtype = DType::kF16});
  EXPECT_TRUE(std::isinf(as_floats(b)[0]));
}

TEST_F(CheckpointLoad, PlainExpertsAreTransposed) {
  Weight w;
  plan_.experts(w, "e", 2, 3, 2);
  write_model(folder_, {{"e", "BF16", "[2,2,3]", brains(iota(12))}});
  std::vector<LoadedRow> rows = load();
  EXPECT_EQ(rows[0].why, "transposed");
  EXPECT_EQ(w.experts, 2);
  EXPECT_EQ(w.n, 3);
  EXPECT_EQ(w.k, 2);
  EXPECT_EQ(w.values.shape, (Shape{2, 3, 2}));
  EXPECT_EQ(as_floats(w.values), (std::vector<float>{0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11}));
}

TEST_F(CheckpointLoad, ExpertListIsStacked) {
  Weight w;
  plan_.expert_list(w, "x.experts", {"gate", "up"}, 2, 4, 1);
  write_model(folder_, {{"x.experts.0.up.weight", "BF16", "[2,1]", brains({2, 3})},
                        {"x.experts.1.gate.weight", "BF16", "[2,1]", brains({4, 5})},
                        {"x.experts.0.gate.weight", "BF16", "[2,1]", brains({0, 1})},
                        {"x.experts.1.up.weight", "F32", "[2,1]", floats({6, 7})}});
  std::vector<LoadedRow> rows = load();
  EXPECT_EQ(as_floats(w.values), iota(8));
  EXPECT_EQ(w.values.shape, (Shape{2, 4, 1}));
  EXPECT_EQ(rows[0].file_bytes, 20);
}

TEST_F(CheckpointLoad, AliasSharesAndAcceptsItsOwnTensor) {
  Weight embed, head;
  plan_.alias(head, "lm_head.weight", "embed");
  plan_.matrix(embed, "embed", 2, 2, Split::kReplicated);
  Entry e{"embed", "BF16", "[2,2]", brains(iota(4))};
  write_model(folder_, {e});
  std::vector<LoadedRow> rows = load();
  EXPECT_EQ(head.values.data, embed.values.data);
  EXPECT_EQ(head.n, 2);
  EXPECT_EQ(rows[0].memory_bytes, 0);
  write_model(folder_, {e, {"lm_head.weight", "BF16", "[2,2]", brains(iota(4))}});
  EXPECT_NO_THROW(load());
}

TEST_F(CheckpointLoad, EverythingWrongIsNamedInOneMessage) {
  Weight w;
  Tensor b, c, d;
  plan_.matrix(w, "w", 2, 3, Split::kReplicated);
  plan_.vector(b, "b", 2);
  plan_.vector(c, "c", 2);
  plan_.vector(d, "d", 2);
  write_model(folder_, {{"w", "BF16", "[3,2]", brains(iota(6))},
                        {"c", "U8", "[2]", "ab"},
                        {"d", "F32", "[2]", floats(iota(2))},
                        {"extra", "F32", "[2]", floats(iota(2))},
                        {"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", "[2]", floats(iota(2))}});
  EXPECT_ERROR(load(), kCorrupt, folder_.path().c_str(), "1 missing: b [2]", "1 unexpected: extra",
               "1 of wrong shape: w is [3, 2], expected [2, 3]",
               "1 of wrong dtype: c is U8, expected BF16, F16 or F32");
  EXPECT_FALSE(w.defined());
}

TEST_F(CheckpointLoad, LongListsAreCut) {
  std::vector<Tensor> targets(100);
  for (size_t i = 0; i < targets.size(); ++i) plan_.vector(targets[i], fmt::format("t{}", i), 1);
  write_model(folder_, {});
  EXPECT_ERROR(load(), kCorrupt, "100 missing: t0 [1], t1 [1]", "and 95 more");
}

TEST_F(CheckpointLoad, ConfigAndFilesDisagreeOnQuantization) {
  Weight w;
  plan_.experts(w, "e", 1, 1, 32);
  write_model(folder_, {{"e_blocks", "U8", "[1,1,1,16]", std::string(16, 0)}, {"e_scales", "U8", "[1,1,1]", "x"}});
  EXPECT_ERROR(load(), kCorrupt, "missing: e", "unexpected: e_blocks", "quantization_config of config.json");
  write_model(folder_, {{"e", "BF16", "[1,32,1]", std::string(64, 0)}},
              R"({"quantization_config":{"quant_method":"mxfp4"}})");
  EXPECT_ERROR(load(), kCorrupt, "missing: e_blocks", "quantization_config of config.json");
  write_model(folder_, {{"e", "BF16", "[1,32,1]", std::string(64, 0)}},
              R"({"quantization_config":{"quant_method":"mxfp4","modules_to_not_convert":["e"]}})");
  EXPECT_NO_THROW(load());
}

TEST_F(CheckpointLoad, Mxfp4NeedsMultiplesOf32) {
  Weight w;
  plan_.experts(w, "e", 1, 1, 33);
  write_model(folder_, {}, R"({"quantization_config":{"quant_method":"mxfp4"}})");
  EXPECT_ERROR(load(), ErrorCode::kUnsupported, "e: 33 inputs are no multiple of 32");
}

TEST_F(CheckpointLoad, NanScaleIsRefusedByPlace) {
  Weight w;
  plan_.experts(w, "e", 2, 3, 64);
  std::string scales(12, 'x');
  scales[9] = '\xff';
  write_model(folder_, {{"e_blocks", "U8", "[2,3,2,16]", std::string(192, 0)}, {"e_scales", "U8", "[2,3,2]", scales}},
              R"({"quantization_config":{"quant_method":"mxfp4"}})");
  EXPECT_ERROR(load(), kCorrupt, "e_scales[1, 1, 1] is 255");
}

TEST_F(CheckpointLoad, Mxfp4InPlaceOrDequantized) {
  Weight w;
  plan_.experts(w, "e", 1, 2, 32);
  std::string blocks(32, '\x21'), scales = "\x7f\x80";  // 0.5, 1, 0.5, ..; times 1 and 2
  write_model(folder_, {{"e_blocks", "U8", "[1,2,1,16]", blocks}, {"e_scales", "U8", "[1,2,1]", scales}},
              R"({"quantization_config":{"quant_method":"mxfp4"}})");
  std::vector<LoadedRow> rows = load();
  EXPECT_TRUE(rows[0].mapped);
  EXPECT_EQ(rows[0].in_memory, "MXFP4");
  EXPECT_EQ(rows[0].memory_bytes, 34);
  EXPECT_EQ(w.format, WeightFormat::kMxfp4);
  EXPECT_EQ(w.values.shape, (Shape{1, 2, 1, 16}));
  EXPECT_EQ(w.scales.shape, (Shape{1, 2, 1}));
  rows = load({.dtype = DType::kF32, .dequantize = true});
  EXPECT_EQ(rows[0].why, "dequantized, exact, so not F32");
  EXPECT_EQ(w.format, WeightFormat::kPlain);
  EXPECT_EQ(w.values.dtype, DType::kBF16);
  std::vector<float> values = as_floats(w.values);
  EXPECT_EQ(values[0], 0.5f);
  EXPECT_EQ(values[1], 1.0f);
  EXPECT_EQ(values[33], 2.0f);
}

// Whatever is made in memory is the same when it is made piece by piece, for every rank, from any byte on.
TEST_F(CheckpointLoad, DeferredIsMadeOnReading) {
  Weight plain, list, matrix, quantized;
  Tensor vector;
  plan_.experts(plain, "p", 2, 6, 4);
  plan_.expert_list(list, "x.experts", {"gate", "up"}, 2, 8, 3);
  plan_.matrix(matrix, "m", 4, 5, Split::kReplicated);
  plan_.experts(quantized, "q", 2, 4, 64, ExpertInner::kColumns);
  plan_.vector(vector, "v", 7);
  std::vector<Entry> entries = {{"p", "BF16", "[2,4,6]", brains(iota(48))},
                                {"m", "F32", "[4,5]", floats(iota(20))},
                                {"q_blocks", "U8", "[2,4,2,16]", std::string(256, 0)},
                                {"q_scales", "U8", "[2,4,2]", "abcdefghijklmnop"},
                                {"v", "BF16", "[7]", brains(iota(7))}};
  for (size_t i = 0; i < 256; ++i) entries[2].data[i] = static_cast<char>(i);
  for (int e = 0; e < 2; ++e)
    for (const char* member : {"gate", "up"})
      entries.push_back({fmt::format("x.experts.{}.{}.weight", e, member), "F32", "[4,3]", floats(iota(12))});
  write_model(folder_, entries, R"({"quantization_config":{"quant_method":"mxfp4","modules_to_not_convert":["p"]}})");
  for (const Mesh& mesh : {Mesh{}, Mesh{.expert = 2}, Mesh{.tensor = 2}}) {
    for (int rank = 0; rank < mesh.ranks(); ++rank) {
      for (DType dtype : {DType::kBF16, DType::kF16}) {
        LoadSettings settings{.dtype = dtype, .mesh = &mesh, .rank = rank};
        load(settings);
        std::vector<std::string> made;
        const std::vector<const Weight*> weights = {&plain, &list, &matrix};
        for (const Weight* w : weights) made.emplace_back(w->values.as<char>(), static_cast<size_t>(w->values.bytes()));
        const std::vector<float> kept = as_floats(vector);
        settings.deferred = true;
        load(settings);
        EXPECT_EQ(as_floats(vector), kept);
        for (size_t i = 0; i < weights.size(); ++i) {
          const Tensor& t = weights[i]->values;
          const int64_t size = dtype_size(t.dtype);
          for (int64_t begin = 0; begin <= t.bytes(); begin += size)
            for (int64_t end = begin; end <= t.bytes(); end += 3 * size) {
              std::string part(static_cast<size_t>(end - begin), '?');
              checkpoint_->read(t.as<char>() + begin, end - begin, part.data());
              ASSERT_EQ(part, made[i].substr(static_cast<size_t>(begin), part.size())) << i << " from " << begin;
            }
        }
      }
    }
  }
}

TEST_F(CheckpointLoad, DeferredMxfp4IsLeftToTheDevice) {
  Weight w;
  plan_.experts(w, "e", 1, 2, 32);
  write_model(folder_, {{"e_blocks", "U8", "[1,2,1,16]", std::string(32, '\x21')}, {"e_scales", "U8", "[1,2,1]", "ab"}},
              R"({"quantization_config":{"quant_method":"mxfp4"}})");
  const std::vector<LoadedRow> rows = load({.dequantize = true, .deferred = true});
  EXPECT_EQ(w.format, WeightFormat::kMxfp4);
  EXPECT_EQ(rows[0].in_memory, "BF16");
  EXPECT_EQ(rows[0].why, "dequantized");
  EXPECT_EQ(rows[0].memory_bytes, 128);
  EXPECT_FALSE(rows[0].mapped);
}

// As layers whose experts stay on the host ask for.
TEST_F(CheckpointLoad, DeferredIsMadeAfterAll) {
  Weight stays, leaves, quantized;
  plan_.experts(stays, "s", 2, 3, 2);
  plan_.experts(leaves, "l", 1, 3, 2);
  plan_.experts(quantized, "e", 1, 2, 32);
  write_model(folder_,
              {{"s", "BF16", "[2,2,3]", brains(iota(12))},
               {"l", "BF16", "[1,2,3]", brains(iota(6))},
               {"e_blocks", "U8", "[1,2,1,16]", std::string(32, '\x21')},
               {"e_scales", "U8", "[1,2,1]", "ab"}},
              R"({"quantization_config":{"quant_method":"mxfp4","modules_to_not_convert":["s","l"]}})");
  load({.dequantize = true, .deferred = true});
  const void* apart = leaves.values.data;
  const void* mapped = quantized.values.data;
  checkpoint_->make_deferred(std::vector<Weight*>{&stays, &quantized}, pool_);
  EXPECT_EQ(as_floats(stays.values), (std::vector<float>{0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11}));
  EXPECT_EQ(quantized.format, WeightFormat::kMxfp4);
  EXPECT_EQ(quantized.values.data, mapped);
  EXPECT_EQ(leaves.values.data, apart);
  std::string part(12, '?');
  checkpoint_->read(leaves.values.data, 12, part.data());
  EXPECT_EQ(part, brains({0, 3, 1, 4, 2, 5}));
  checkpoint_->read(stays.values.data, 12, part.data());
  EXPECT_EQ(part, brains({0, 3, 1, 4, 2, 5}));
}

// What ranks of one host read together: split weights once, replicated ones once a rank; the rest stays on the disk.
TEST_F(CheckpointLoad, RanksReadTheirPart) {
  Weight everywhere, split;
  plan_.matrix(everywhere, "m", 512, 128, Split::kReplicated);
  plan_.experts(split, "e", 4, 512, 512);
  constexpr int64_t kReplicated = 512 * 128 * 2, kBlocks = 4 * 512 * 256, kScales = 4 * 512 * 16;
  write_model(folder_,
              {{"m", "BF16", "[512,128]", std::string(kReplicated, 0)},
               {"e_blocks", "U8", "[4,512,16,16]", std::string(kBlocks, 0)},
               {"e_scales", "U8", "[4,512,16]", std::string(kScales, 0)}},
              R"({"quantization_config":{"quant_method":"mxfp4","modules_to_not_convert":["m"]}})");
  const Mesh mesh{.expert = 4};
  int64_t together = 0;
  for (int rank = 0; rank < 4; ++rank) {
    int64_t held = 0, fetched = 0;
    const auto told = [&](int64_t done, int64_t total) { fetched = std::max(done, total); };
    for (const LoadedRow& row : load({.mesh = &mesh, .rank = rank, .on_progress = told})) held += row.file_bytes;
    EXPECT_GE(fetched, held);
    EXPECT_LE(fetched, held + 6 * 4096 + 2 * 65536);  // both ends of three ranges, gaps between them
    together += held;
  }
  EXPECT_EQ(together, 4 * kReplicated + kBlocks + kScales);
}

TEST_F(CheckpointLoad, ProgressEndsWithAll) {
  Weight made, mapped;
  plan_.experts(made, "p", 1, 256, 256);
  plan_.matrix(mapped, "m", 256, 256, Split::kReplicated);
  write_model(folder_, {{"p", "BF16", "[1,256,256]", std::string(131072, 0)},
                        {"m", "BF16", "[256,256]", std::string(131072, 0)}});
  std::vector<std::pair<int64_t, int64_t>> seen;
  load({.on_progress = [&](int64_t done, int64_t total) { seen.emplace_back(done, total); }});
  ASSERT_FALSE(seen.empty());
  EXPECT_EQ(seen.back().first, seen.back().second);
  EXPECT_GE(seen.back().second, 3 * 131072);  // two are read, one is made
  const auto impatient = [](int64_t, int64_t) { fail(ErrorCode::kIo, "enough"); };
  EXPECT_ERROR(load({.on_progress = impatient}), ErrorCode::kIo, "enough");
}

TEST_F(CheckpointLoad, ImpossibleDtype) {
  write_model(folder_, {});
  EXPECT_ERROR(load({.dtype = DType::kI32}), ErrorCode::kInvalidArgument, "I32");
}

TEST(CheckpointOpen, BadFolders) {
  TempFolder folder;
  EXPECT_ERROR(Checkpoint::open(folder.file("absent")), ErrorCode::kNotFound, "no such folder");
  EXPECT_ERROR(Checkpoint::open(folder.path()), ErrorCode::kNotFound, "no config.json");
  folder.write("config.json", "[]");
  EXPECT_ERROR(Checkpoint::open(folder.path()), kCorrupt, "config.json: expected a JSON object");
  EXPECT_ERROR(Checkpoint::open(folder.file("config.json")), ErrorCode::kInvalidArgument, "expected a model folder");
  folder.write("config.json", R"({"hidden_size": 1, "hidden_size": 2})");
  EXPECT_ERROR(Checkpoint::open(folder.path()), kCorrupt, "\"hidden_size\" appears twice");
  folder.write("config.json", R"({"quantization_config":{"quant_method":"awq"}})");
  EXPECT_ERROR(Checkpoint::open(folder.path()), ErrorCode::kUnsupported, "\"awq\"");
  folder.write("config.json", "{}");
  EXPECT_ERROR(Checkpoint::open(folder.path()), ErrorCode::kNotFound, "neither");
  folder.write("model.safetensors", safetensors_bytes("{}", ""));
  EXPECT_NO_THROW(Checkpoint::open(folder.path()));
  folder.write("generation_config.json", "{");
  EXPECT_ERROR(Checkpoint::open(folder.path()), kCorrupt, "generation_config.json");
}

// The fixtures' true shapes: native, dequantized and plain all hold the values of the files.
TEST(CheckpointFixtures, GptOss) {
  if (!fs::exists(shared("fixtures/gpt_oss"))) GTEST_SKIP() << shared("fixtures") << " is absent";
  ThreadPool pool(2);
  for (const char* name :
       {"fixtures/gpt_oss", "fixtures/gpt_oss_mxfp4", "models/glossary-mxfp4", "models/glossary-bf16"}) {
    Checkpoint checkpoint = Checkpoint::open(shared(name));
    GptOssPlan model(checkpoint.config());
    int64_t file_bytes = 0;
    for (const LoadedRow& row : checkpoint.load(model.plan, {.dtype = DType::kF32}, pool)) file_bytes += row.file_bytes;
    EXPECT_EQ(file_bytes, checkpoint.tensors().total_bytes()) << name;
    Weight& down = model.weights["model.layers.1.mlp.experts.down_proj"];
    bool quantized = checkpoint.quantization().has_value();
    EXPECT_EQ(down.format, quantized ? WeightFormat::kMxfp4 : WeightFormat::kPlain);
    EXPECT_EQ(down.n, checkpoint.config()["hidden_size"]);
    EXPECT_EQ(down.k, checkpoint.config()["intermediate_size"]);
    if (!quantized) continue;
    Checkpoint again = Checkpoint::open(shared(name));
    GptOssPlan plain(again.config());
    again.load(plain.plan, {.dequantize = true}, pool);
    std::vector<float> values = as_floats(plain.weights["model.layers.1.mlp.experts.down_proj"].values),
                       row(static_cast<size_t>(down.k));
    for (int64_t r = 0; r < down.experts * down.n; ++r) {
      mxfp4_dequantize_row(down.values.as<uint8_t>() + r * down.k / 2, down.scales.as<uint8_t>() + r * down.k / 32,
                           down.k, row.data());
      for (int64_t i = 0; i < down.k; ++i)
        ASSERT_EQ(values[static_cast<size_t>(r * down.k + i)], row[static_cast<size_t>(i)]);
    }
  }
}

}  // namespace
}  // namespace tessera
