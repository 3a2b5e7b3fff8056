// Tokenizers of published families and small ones of every kind, against ids that other programs computed.
#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <random>
#include <thread>

#include "core/error.h"
#include "core/json.h"
#include "text/utf8.h"

namespace tessera {
namespace {

const std::string kData = std::string(TESSERA_TEST_DATA) + "/tokenizers/";
const std::string kGlossary = std::string(TESSERA_SOURCE_DIR) + "/models/glossary/tokenizer.json";
const std::string kShared = std::string(TESSERA_SOURCE_DIR) + "/../shared/fixtures/tokenizers/";
const std::vector<std::string> kSynthetic = {"llama2", "llama3", "metaspace_first", "unknowns", "added"};

using Ids = std::vector<int32_t>;

Ids ids_of(const Json& json) {
  return json.get<Ids>();
}

std::string stream(const Tokenizer& tokenizer, const Ids& ids) {
  StreamDecoder decoder(tokenizer);
  std::string text;
  for (int32_t id : ids) text += decoder.push(id);
  return text + decoder.flush();
}

void expect_vectors(const std::string& tokenizer_json, const std::string& vectors, bool parse_special,
                    const std::vector<std::string>& except = {}) {
  if (!std::filesystem::exists(tokenizer_json))
    GTEST_SKIP() << "no " << tokenizer_json << ": too big for the repository";
  Tokenizer tokenizer = Tokenizer::from_file(tokenizer_json);
  int64_t compared = 0;
  for (const Json& vector : read_json_file(kData + vectors)) {
    const auto text = vector.at("text").get<std::string>();
    if (std::find(except.begin(), except.end(), text) != except.end()) continue;
    EXPECT_EQ(tokenizer.encode(text, {.parse_special = parse_special}), ids_of(vector.at("ids"))) << text;
    ++compared;
  }
  EXPECT_GT(compared, 400);
}

TEST(Tokenizer, GptOssVectors) {
  expect_vectors(kShared + "o200k_harmony/tokenizer.json", "o200k_harmony.vectors.json", false);
}

// The one text left out was computed with JavaScript's \s, which holds U+FEFF; Unicode's White_Space, and so the file's
// pattern as Hugging Face's library reads it, does not.
TEST(Tokenizer, Qwen3Vectors) {
  const std::string byte_order_mark = "\u200b zero\u200dwidth \ufeffbom";
  expect_vectors(kShared + "qwen3/tokenizer.json", "qwen3.vectors.json", false, {byte_order_mark});
  if (!std::filesystem::exists(kShared + "qwen3/tokenizer.json")) return;
  Tokenizer tokenizer = Tokenizer::from_file(kShared + "qwen3/tokenizer.json");
  EXPECT_EQ(tokenizer.encode(byte_order_mark), (Ids{15692, 7168, 378, 235, 3098, 75780, 65, 316}));
}

TEST(Tokenizer, GlossaryVectors) {
  expect_vectors(kGlossary, "glossary.vectors.json", true);
}

TEST(Tokenizer, GlossaryTextComesBack) {
  Tokenizer tokenizer = Tokenizer::from_file(kGlossary);
  for (const Json& vector : read_json_file(kData + "glossary.vectors.json")) {
    const auto text = vector.at("text").get<std::string>();
    Ids ids = ids_of(vector.at("ids"));
    EXPECT_EQ(tokenizer.decode(ids), text);
    EXPECT_EQ(stream(tokenizer, ids), text);
  }
}

class SyntheticTokenizer : public testing::TestWithParam<std::string> {};

TEST_P(SyntheticTokenizer, AgreesWithHuggingFace) {
  const std::string base = kData + "synthetic/" + GetParam();
  Tokenizer tokenizer = Tokenizer::from_file(base + ".json");
  for (const Json& vector : read_json_file(base + ".vectors.json")) {
    const auto text = vector.at("text").get<std::string>();
    SCOPED_TRACE(vector.at("text").dump());
    Ids ids = tokenizer.encode(text);
    EXPECT_EQ(ids, ids_of(vector.at("ids")));
    EXPECT_EQ(tokenizer.encode(text, {.parse_special = false}), ids_of(vector.at("plain")));
    EXPECT_EQ(tokenizer.encode(text, {.add_special_tokens = true}), ids_of(vector.at("processed")));
    EXPECT_EQ(tokenizer.decode(ids), vector.at("decoded").get<std::string>());
    EXPECT_EQ(stream(tokenizer, ids), vector.at("decoded").get<std::string>());
    Ids shuffled = ids_of(vector.at("shuffled")[0]);
    EXPECT_EQ(tokenizer.decode(shuffled, /*skip_special=*/true), vector.at("shuffled")[1].get<std::string>());
  }
}

// Ids in any order, also ones that do not exist: whatever decode() says, the stream says too, in valid UTF-8.
TEST_P(SyntheticTokenizer, StreamEqualsDecode) {
  Tokenizer tokenizer = Tokenizer::from_file(kData + "synthetic/" + GetParam() + ".json");
  std::mt19937 random(7);
  std::uniform_int_distribution<int32_t> any(-5, tokenizer.vocab_size() + 5);
  std::uniform_int_distribution<int32_t> low(0, 300);  // bytes, mostly
  for (int round = 0; round < 2000; ++round) {
    Ids ids;
    for (int i = 0; i < 12; ++i) ids.push_back(round % 2 == 0 ? any(random) : low(random));
    const std::string text = tokenizer.decode(ids);
    ASSERT_TRUE(utf8_is_valid(text));
    ASSERT_EQ(stream(tokenizer, ids), text);
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, SyntheticTokenizer, testing::ValuesIn(kSynthetic));

TEST(Tokenizer, AnyValidTextRoundTrips) {
  Tokenizer tokenizer = Tokenizer::from_file(kGlossary);
  std::mt19937 random(1);
  std::uniform_int_distribution<uint32_t> plane(0, 3), ascii(0, 0x7F), basic(0, 0xFFFF), any(0x10000, 0x10FFFF);
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (int i = 0; i < 20; ++i) {
      uint32_t which = plane(random);
      uint32_t code = which == 0 ? any(random) : which == 1 ? basic(random) : ascii(random);
      if (code < 0xD800 || code >= 0xE000) utf8_append(text, code);
    }
    Ids ids = tokenizer.encode(text, {.parse_special = false});
    ASSERT_EQ(tokenizer.decode(ids), text);
    std::string bytes;
    for (int32_t id : ids) bytes += tokenizer.token_bytes(id);
    ASSERT_EQ(bytes, text);
  }
}

TEST(Tokenizer, InvalidUtf8IsReadAsReplacementCharacters) {
  Tokenizer tokenizer = Tokenizer::from_file(kGlossary);
  EXPECT_EQ(tokenizer.encode("a\xFF\xE4\xBD z"), tokenizer.encode("a\uFFFD\uFFFD z"));
  std::mt19937 random(2);
  std::uniform_int_distribution<int> byte(0, 255);
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (int i = 0; i < 16; ++i) text += static_cast<char>(byte(random));
    ASSERT_TRUE(utf8_is_valid(tokenizer.decode(tokenizer.encode(text))));
  }
}

TEST(Tokenizer, SpecialTokensAreParsedOnlyWhenAsked) {
  Tokenizer tokenizer = Tokenizer::from_file(kGlossary);
  const int32_t end = tokenizer.token_to_id("<|end|>").value();
  EXPECT_TRUE(tokenizer.is_special(end));
  EXPECT_EQ(tokenizer.encode("<|end|>"), Ids{end});
  Ids plain = tokenizer.encode("x<|end|>y", {.parse_special = false});
  EXPECT_EQ(std::count(plain.begin(), plain.end(), end), 0);
  EXPECT_EQ(tokenizer.decode(plain), "x<|end|>y");
  EXPECT_EQ(tokenizer.decode(Ids{end}), "<|end|>");
  EXPECT_EQ(tokenizer.decode(Ids{end}, /*skip_special=*/true), "");
}

TEST(Tokenizer, SpecialTokensInPlainRangesAreText) {
  Tokenizer tokenizer = Tokenizer::from_file(kGlossary);
  const int32_t end = tokenizer.token_to_id("<|end|>").value();
  auto count = [&](std::string_view text, std::vector<TextRange> plain) {
    Ids ids = tokenizer.encode(text, {.plain_ranges = plain});
    return std::count(ids.begin(), ids.end(), end);
  };
  EXPECT_EQ(count("<|end|><|end|><|end|>", {{7, 14}}), 2);
  EXPECT_EQ(count("<|end|>abc", {{6, 10}}), 0) << "a range that only touches the token";
  EXPECT_EQ(count("<|end|>abc", {{7, 10}}), 1);
  // Repairing invalid UTF-8 makes the text longer; the range must move with it.
  const std::string broken = "\xFF\xFF\xFF<|end|>\xFF<|end|>";
  auto ends_special = [&](std::vector<TextRange> plain) {
    return tokenizer.encode(broken, {.plain_ranges = plain}).back() == end;
  };
  EXPECT_EQ(count(broken, {{10, 18}}), 1);
  EXPECT_FALSE(ends_special({{10, 18}}));
  EXPECT_EQ(count(broken, {{3, 10}}), 1);
  EXPECT_TRUE(ends_special({{3, 10}}));
}

TEST(Tokenizer, IdsWithoutTokenAreLeftOut) {
  Tokenizer tokenizer = Tokenizer::from_file(kGlossary);
  Ids ids = tokenizer.encode("Hello, world!");
  Ids noisy = {-1, INT32_MIN};
  for (int32_t id : ids) noisy.insert(noisy.end(), {id, tokenizer.vocab_size(), INT32_MAX});
  EXPECT_EQ(tokenizer.decode(noisy), "Hello, world!");
  EXPECT_EQ(tokenizer.id_to_token(-1), "");
  EXPECT_EQ(tokenizer.id_to_token(INT32_MAX), "");
  EXPECT_EQ(tokenizer.token_bytes(INT32_MAX), "");
  EXPECT_FALSE(tokenizer.is_special(INT32_MAX));
}

TEST(Tokenizer, TokensByName) {
  Tokenizer tokenizer = Tokenizer::from_file(kGlossary);
  const int32_t space = tokenizer.token_to_id("Ġ").value();
  EXPECT_EQ(tokenizer.token_bytes(space), " ");
  EXPECT_EQ(tokenizer.id_to_token(space), "Ġ");
  EXPECT_FALSE(tokenizer.token_to_id("no such token").has_value());
  EXPECT_FALSE(tokenizer.token_to_id(" ").has_value()) << "raw bytes are not the name of a byte-level token";
  EXPECT_FALSE(tokenizer.token_to_id("\xFF").has_value());
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string name = tokenizer.id_to_token(id);
    if (!name.empty()) ASSERT_EQ(tokenizer.token_to_id(name), id) << name;
  }
}

TEST(Tokenizer, ByteTokensOfAFallbackVocabulary) {
  Tokenizer tokenizer = Tokenizer::from_file(kData + "synthetic/llama2.json");
  EXPECT_EQ(tokenizer.token_bytes(tokenizer.token_to_id("<0x0A>").value()), "\n");
  EXPECT_EQ(tokenizer.token_bytes(tokenizer.token_to_id("<0xFF>").value()), "\xFF");
  EXPECT_EQ(tokenizer.token_bytes(tokenizer.token_to_id("▁").value()), " ");
  // A broken run of bytes is U+FFFD for each byte, known only when the run ends.
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.push(tokenizer.token_to_id("<0xE4>").value()), "");
  EXPECT_EQ(decoder.push(tokenizer.token_to_id("<0xBD>").value()), "");
  EXPECT_EQ(decoder.push(tokenizer.token_to_id("a").value()), "\uFFFD\uFFFDa");
  EXPECT_EQ(decoder.flush(), "");
}

TEST(Tokenizer, StreamHoldsIncompleteCharacters) {
  Tokenizer tokenizer = Tokenizer::from_file(kData + "synthetic/llama3.json");
  auto byte = [&](const char* name) { return tokenizer.token_to_id(name).value(); };
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.push(byte("ä")), "");  // E4 BD A0 is one character
  EXPECT_EQ(decoder.push(byte("½")), "");
  EXPECT_EQ(decoder.push(byte("ł")), "\u4F60");
  EXPECT_EQ(decoder.push(byte("ä")), "");
  EXPECT_EQ(decoder.push(byte("a")), "\uFFFDa");
  EXPECT_EQ(decoder.push(byte("ä")), "");
  EXPECT_EQ(decoder.flush(), "\uFFFD");
  EXPECT_EQ(decoder.push(byte("a")), "a") << "after flush() another stream begins";
}

// Quadratic merging of a word of this length would take an hour.
TEST(Tokenizer, LongWords) {
  for (const std::string& file : {kGlossary, kData + "synthetic/llama2.json"}) {
    Tokenizer tokenizer = Tokenizer::from_file(file);
    for (std::string_view unit : {"a", "ab", "é", "中", "A", " ", "\xCC\x81"}) {
      std::string text;
      while (text.size() < 400000) text += unit;
      Ids ids = tokenizer.encode(text);
      EXPECT_EQ(tokenizer.decode(ids), text);
    }
  }
}

TEST(Tokenizer, ThreadsShareOneTokenizer) {
  Tokenizer tokenizer = Tokenizer::from_file(kGlossary);
  const Json vectors = read_json_file(kData + "glossary.vectors.json");
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (const Json& vector : vectors) {
        Ids ids = tokenizer.encode(vector.at("text").get<std::string>());
        if (ids != ids_of(vector.at("ids"))) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace tessera
