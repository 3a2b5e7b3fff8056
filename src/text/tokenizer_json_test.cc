// tokenizer.json files that are wrong, hostile or unusual: each gives one clear error, or works as its components say.
#include "text/tokenizer_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "core/error.h"
#include "core/json.h"
#include "text/tokenizer.h"
#include "text/tokenizer_property.h"

namespace tessera {
namespace {

using testing::HasSubstr;

// A complete small file: characters, one merge, one special token.
Json small_file() {
  return Json::parse(R"({
    "version": "1.0", "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
    "added_tokens": [{"id": 4, "content": "<s>", "special": true, "normalized": false}],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3}, "merges": [["a", "b"]]}})");
}

struct Outcome {
  ErrorCode code;
  std::string message;
};

// What loading says; fails the test when it says nothing.
Outcome error_of(const std::string& json) {
  try {
    Tokenizer::from_json(json, "test.json");
  } catch (const Error& e) {
    return {e.code(), e.what()};
  }
  ADD_FAILURE() << "no error for " << json.substr(0, 300);
  return {};
}

void expect_error(const std::function<void(Json&)>& change, ErrorCode code, const std::string& message) {
  Json file = small_file();
  change(file);
  Outcome outcome = error_of(file.dump());
  EXPECT_EQ(outcome.code, code) << outcome.message;
  EXPECT_THAT(outcome.message, HasSubstr(message));
  EXPECT_THAT(outcome.message, HasSubstr("test.json"));
}

TEST(TokenizerJson, SmallFileWorks) {
  Tokenizer tokenizer = Tokenizer::from_json(small_file().dump(), "test.json");
  EXPECT_EQ(tokenizer.encode("abc<s>ba"), (std::vector<int32_t>{2, 3, 4, 1, 0}));
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{2, 3, 4}), "abc<s>");
  EXPECT_EQ(tokenizer.vocab_size(), 5);
  EXPECT_EQ(tokenizer.encode("axxb"), (std::vector<int32_t>{2})) << "unknown characters disappear without unk_token";
}

TEST(TokenizerJson, EveryTruncationIsAnError) {
  const std::string whole = small_file().dump();
  for (size_t n = 0; n < whole.size(); ++n) {
    Outcome outcome = error_of(whole.substr(0, n));
    EXPECT_EQ(outcome.code, ErrorCode::kCorrupt);
    EXPECT_THAT(outcome.message, HasSubstr("is the download complete?"));
  }
}

TEST(TokenizerJson, NotJson) {
  for (const std::string json :
       {"", "null", "[]", "7", "\"x\"", "{", "\xFF", "{\"model\":\"\xC3\x28\"}", "<html></html>"}) {
    EXPECT_EQ(error_of(json).code, ErrorCode::kCorrupt) << json;
  }
  EXPECT_EQ(error_of(std::string(200000, '[')).code, ErrorCode::kCorrupt);
  EXPECT_THAT(error_of("{}").message, HasSubstr("has no \"model\""));
}

TEST(TokenizerJson, MissingFileAndFolder) {
  EXPECT_THROW(Tokenizer::from_file("/no/such/tokenizer.json"), Error);
  EXPECT_THROW(Tokenizer::from_file(TESSERA_TEST_DATA), Error);
}

TEST(TokenizerJson, Model) {
  auto corrupt = ErrorCode::kCorrupt;
  expect_error([](Json& f) { f.erase("model"); }, corrupt, "has no \"model\"");
  expect_error([](Json& f) { f["model"] = 3; }, corrupt, "is not an object");
  expect_error([](Json& f) { f["model"].erase("vocab"); }, corrupt, "has no \"vocab\"");
  expect_error([](Json& f) { f["model"].erase("merges"); }, corrupt, "has no \"merges\"");
  expect_error([](Json& f) { f["model"]["vocab"] = Json::array(); }, corrupt, "is not an object");
  expect_error([](Json& f) { f["model"]["merges"] = "a b"; }, corrupt, "is not an array");
  expect_error([](Json& f) { f["model"]["byte_fallback"] = "yes"; }, corrupt, "is not true or false");
  expect_error([](Json& f) { f["model"]["type"] = "Unigram"; }, ErrorCode::kUnsupported,
               "\"Unigram\" is not supported; supported are: BPE");
  expect_error([](Json& f) { f["model"]["dropout"] = 0.1; }, ErrorCode::kUnsupported, "model.dropout");
  expect_error([](Json& f) { f["model"]["end_of_word_suffix"] = "</w>"; }, ErrorCode::kUnsupported,
               "end_of_word_suffix");
}

TEST(TokenizerJson, VocabularyIds) {
  for (const Json& id : {Json(-1), Json(int64_t{1} << 31), Json(int64_t{1} << 40), Json(18446744073709551615u),
                         Json(1.5), Json("7"), Json(nullptr), Json(Vocab::kMaxId + 1)}) {
    expect_error([&](Json& f) { f["model"]["vocab"]["c"] = id; }, ErrorCode::kCorrupt,
                 "the id of token \"c\" is not a whole number");
  }
  expect_error([](Json& f) { f["model"]["vocab"]["c"] = 0; }, ErrorCode::kCorrupt, "id 0 belongs to two tokens");
  // nlohmann cannot write a key twice.
  std::string twice = small_file().dump();
  twice.replace(twice.find("\"c\":3"), 5, "\"c\":3,\"c\":9");
  EXPECT_THAT(error_of(twice).message, HasSubstr("\"c\" appears twice"));
}

TEST(TokenizerJson, SparseIds) {
  Json file = small_file();
  file["model"]["vocab"]["c"] = Vocab::kMaxId;
  Tokenizer tokenizer = Tokenizer::from_json(file.dump(), "test.json");
  EXPECT_EQ(tokenizer.encode("c"), (std::vector<int32_t>{static_cast<int32_t>(Vocab::kMaxId)}));
  EXPECT_EQ(tokenizer.id_to_token(1000), "");
  EXPECT_EQ(tokenizer.vocab_size(), Vocab::kMaxId + 1);
  // With gaps below the number of tokens, the next free id is somebody's already.
  file["model"]["vocab"] = {{"a", 0}, {"b", 1}, {"ab", 3}};
  EXPECT_THAT(error_of(file.dump()).message, HasSubstr("ids there have gaps"));
}

TEST(TokenizerJson, TokenLengths) {
  expect_error([](Json& f) { f["model"]["vocab"][std::string(Vocab::kMaxTokenBytes + 1, 'x')] = 9; },
               ErrorCode::kCorrupt, "more than the 65535");
  expect_error(
      [](Json& f) { f["added_tokens"][0]["content"] = std::string(AddedTokenMatcher::kMaxContentBytes + 1, 'x'); },
      ErrorCode::kCorrupt, "more than the 1024");
  Json file = small_file();
  const std::string longest(Vocab::kMaxTokenBytes, 'x');
  file["model"]["vocab"][longest] = 9;
  file["model"]["vocab"][""] = 10;
  Tokenizer tokenizer = Tokenizer::from_json(file.dump(), "test.json");
  EXPECT_EQ(tokenizer.token_bytes(9), longest);
  EXPECT_EQ(tokenizer.id_to_token(10), "");
}

TEST(TokenizerJson, Merges) {
  auto corrupt = ErrorCode::kCorrupt;
  auto merges = [](Json value) { return [value](Json& f) { f["model"]["merges"] = value; }; };
  expect_error(merges(Json::parse(R"([["a", "z"]])")), corrupt,
               "merge 0 joins \"a\" and \"z\", but the vocabulary lacks one of them");
  expect_error(merges(Json::parse(R"([["a", "c"]])")), corrupt, "the vocabulary lacks what they give");
  expect_error(merges(Json::parse(R"(["a b", "a b c"])")), corrupt, "merge 1 is neither");
  expect_error(merges(Json::parse(R"(["ab"])")), corrupt, "merge 0 is neither");
  expect_error(merges(Json::parse(R"([["a"]])")), corrupt, "merge 0 is neither");
  expect_error(merges(Json::parse(R"([["a", 1]])")), corrupt, "merge 0 is neither");
  expect_error(merges(Json::parse("[null]")), corrupt, "merge 0 is neither");
  Json file = small_file();
  file["model"]["merges"] = {"#version: 0.2", "a b"};
  EXPECT_EQ(Tokenizer::from_json(file.dump(), "x").encode("ab"), (std::vector<int32_t>{2}))
      << "older files join with a space";
}

TEST(TokenizerJson, ComponentsAreNamed) {
  auto unsupported = ErrorCode::kUnsupported;
  expect_error(
      [](Json& f) {
        f["pre_tokenizer"] = {{"type", "BertPreTokenizer"}};
      },
      unsupported,
      "test.json.pre_tokenizer: type \"BertPreTokenizer\" is not supported; supported are: ByteLevel, Digits, "
      "Metaspace");
  expect_error(
      [](Json& f) {
        f["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}, {{"type", "Nmt"}}}}};
      },
      unsupported, "test.json.normalizer.normalizers[1]: type \"Nmt\"");
  expect_error([](Json& f) { f["decoder"] = {{"type", "CTC"}}; }, unsupported, "type \"CTC\"");
  expect_error(
      [](Json& f) {
        f["post_processor"] = {{"type", "BertProcessing"}};
      },
      unsupported, "type \"BertProcessing\"");
  expect_error([](Json& f) { f["decoder"] = Json::object(); }, ErrorCode::kCorrupt, "has no \"type\"");
  expect_error([](Json& f) { f["decoder"] = "ByteLevel"; }, ErrorCode::kCorrupt, "is not an object");
  expect_error(
      [](Json& f) {
        f["decoder"] = {{"type", "Sequence"}, {"decoders", {nullptr}}};
      },
      ErrorCode::kCorrupt, "is null");
  expect_error(
      [](Json& f) {
        f["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"String", ""}}}, {"behavior", "Isolated"}};
      },
      unsupported, "is empty");
  expect_error(
      [](Json& f) {
        f["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"String", "x"}}}, {"behavior", "Odd"}};
      },
      ErrorCode::kCorrupt, "MergedWithPrevious");
  expect_error(
      [](Json& f) {
        f["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "ab"}};
      },
      ErrorCode::kCorrupt, "is not one character");
  Json byte_level = {{"type", "ByteLevel"}};
  expect_error(
      [&](Json& f) {
        f["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {byte_level, byte_level}}};
      },
      unsupported, "nothing may follow ByteLevel");
}

TEST(TokenizerJson, NestingAndNumberOfComponents) {
  Json nested = {{"type", "NFC"}};
  for (int i = 0; i < 20; ++i) nested = {{"type", "Sequence"}, {"normalizers", Json::array({nested})}};
  expect_error([&](Json& f) { f["normalizer"] = nested; }, ErrorCode::kUnsupported, "sequences nested more than");
  Json many = {{"type", "Sequence"}, {"decoders", Json::array()}};
  for (int i = 0; i < 100; ++i) many["decoders"].push_back({{"type", "Fuse"}});
  expect_error([&](Json& f) { f["decoder"] = many; }, ErrorCode::kUnsupported, "more than 64 components");
}

TEST(TokenizerJson, Templates) {
  auto with = [](Json single, Json ids) {
    return [=](Json& f) {
      f["post_processor"] = {
          {"type", "TemplateProcessing"}, {"single", single}, {"special_tokens", {{"<s>", {{"ids", ids}}}}}};
    };
  };
  Json special = {{"SpecialToken", {{"id", "<s>"}}}};
  Json text = {{"Sequence", {{"id", "A"}}}};
  expect_error(with({special, text}, {77}), ErrorCode::kCorrupt, "id 77, which is no token");
  expect_error(with({special, text}, {-4}), ErrorCode::kCorrupt, "is not a whole number");
  expect_error(with({special}, {4}), ErrorCode::kUnsupported, "without the sequence A");
  expect_error(with({text, text}, {4}), ErrorCode::kUnsupported, "anything but one sequence A");
  expect_error(with({{{"SpecialToken", {{"id", "</s>"}}}}, text}, {4}), ErrorCode::kCorrupt, "has no \"</s>\"");
  Json file = small_file();
  with({special, text, special}, {4, 3})(file);
  Tokenizer tokenizer = Tokenizer::from_json(file.dump(), "test.json");
  EXPECT_EQ(tokenizer.encode("a", {.add_special_tokens = true}), (std::vector<int32_t>{4, 3, 0, 4, 3}));
  EXPECT_EQ(tokenizer.encode("a"), (std::vector<int32_t>{0}));
}

// Names that only look like byte tokens are ordinary tokens: no sign, no third digit.
TEST(TokenizerJson, ByteTokensAreTwoHexadecimalDigits) {
  Json file = small_file();
  file["decoder"] = {{"type", "ByteFallback"}};
  file["model"]["byte_fallback"] = true;
  file["added_tokens"] = Json::array();
  int next = 4;
  for (const char* name : {"<0x-1>", "<0x+1>", "<0x 1>", "<0x1g>", "<0x41>", "<0x041>", "<0x>", "<0xC3>"}) {
    file["model"]["vocab"][name] = next++;
  }
  Tokenizer tokenizer = Tokenizer::from_json(file.dump(), "test.json");
  auto decode = [&](const char* name) {
    return tokenizer.decode(std::vector<int32_t>{tokenizer.token_to_id(name).value()});
  };
  EXPECT_EQ(decode("<0x41>"), "A");
  EXPECT_EQ(decode("<0xC3>"), "\uFFFD");
  for (const char* name : {"<0x-1>", "<0x+1>", "<0x 1>", "<0x1g>", "<0x041>", "<0x>"}) EXPECT_EQ(decode(name), name);
  EXPECT_EQ(tokenizer.encode("A"), (std::vector<int32_t>{tokenizer.token_to_id("<0x41>").value()}));
}

TEST(TokenizerJson, UnknownTokenMustExistWhenNeeded) {
  Json file = small_file();
  file["model"]["unk_token"] = "<unk>";
  Tokenizer tokenizer = Tokenizer::from_json(file.dump(), "test.json");
  EXPECT_EQ(tokenizer.encode("ab"), (std::vector<int32_t>{2}));
  try {
    tokenizer.encode("x");
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kCorrupt);
    EXPECT_THAT(e.what(), HasSubstr("unknown token \"<unk>\" is not in the vocabulary"));
  }
}

TEST(TokenizerJson, UnknownCharacters) {
  Json file = small_file();
  file["model"]["unk_token"] = "c";
  auto encode = [&](std::string_view text) { return Tokenizer::from_json(file.dump(), "test.json").encode(text); };
  EXPECT_EQ(encode("axybz"), (std::vector<int32_t>{0, 3, 3, 1, 3})) << "one for each";
  file["model"]["fuse_unk"] = true;
  EXPECT_EQ(encode("axybz"), (std::vector<int32_t>{0, 3, 1, 3})) << "one for each run";
  // A character whose bytes have tokens does not end a run of unknown ones, and comes before it: as Hugging Face has
  // it.
  file["model"]["byte_fallback"] = true;
  file["model"]["vocab"]["<0x79>"] = 4;
  file["added_tokens"] = Json::array();
  EXPECT_EQ(encode("axyxb"), (std::vector<int32_t>{0, 4, 3, 1}));
}

// Texts are cut before SentencePiece's marks only where no merge reaches over one.
TEST(TokenizerJson, MergesOverMarks) {
  Json file = small_file();
  file["added_tokens"] = Json::array();
  file["model"]["vocab"] = {{"a", 0}, {"b", 1}, {"▁", 2}, {"▁b", 3}, {"▁▁", 4}, {"▁▁▁b", 5}, {"a▁", 6}};
  file["model"]["merges"] = Json::parse(R"([["▁", "▁"], ["▁", "b"], ["▁▁", "▁b"]])");
  auto encode = [&](std::string_view text) { return Tokenizer::from_json(file.dump(), "test.json").encode(text); };
  EXPECT_EQ(encode("a▁b▁▁▁b"), (std::vector<int32_t>{0, 3, 5}));
  file["model"]["merges"].insert(file["model"]["merges"].begin(), Json::parse(R"(["a", "▁"])"));
  EXPECT_EQ(encode("a▁b▁▁▁b"), (std::vector<int32_t>{6, 1, 5}));
}

TEST(TokenizerJson, FlagsOfAddedTokens) {
  auto encode = [](Json flags, std::string_view text, const char* content = "<s>") {
    Json file = small_file();
    file["model"]["vocab"][" "] = 4;
    file["added_tokens"] = Json::array({{{"id", 5}, {"content", content}}});
    file["added_tokens"][0].update(flags);
    return Tokenizer::from_json(file.dump(), "test.json").encode(text);
  };
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(encode(Json::object(), "a <s> b"), (Ids{0, 4, 5, 4, 1}));
  EXPECT_EQ(encode({{"lstrip", true}}, "a  <s> <s> b"), (Ids{0, 5, 5, 4, 1}));
  EXPECT_EQ(encode({{"rstrip", true}}, "a <s>  <s> b"), (Ids{0, 4, 5, 5, 1}));
  EXPECT_EQ(encode({{"single_word", true}}, "bb abb bba bb", "bb"), (Ids{5, 4, 2, 1, 4, 1, 1, 0, 4, 5}));
  EXPECT_EQ(encode({{"single_word", true}}, "<s> a<s> <s>\u0301", "<s>"), (Ids{5, 4, 0, 4}));
  EXPECT_EQ(encode({{"special", true}}, "a<s>"), (Ids{0, 5}));
  // White space as a token, in a run that the first one strips: read again and again, in no quadratic time.
  EXPECT_EQ(encode({{"rstrip", true}}, std::string(100000, ' '), " ").size(), 100000u);
}

TEST(TokenizerJson, NormalizedAddedTokens) {
  Json file = small_file();
  file["normalizer"] = {{"type", "NFKC"}};
  file["added_tokens"] = Json::array({{{"id", 4}, {"content", "\uFB01"}, {"normalized", true}, {"special", true}},
                                      {{"id", 5}, {"content", "\uFB02"}, {"normalized", false}, {"special", true}}});
  Tokenizer tokenizer = Tokenizer::from_json(file.dump(), "test.json");
  EXPECT_EQ(tokenizer.encode("fi\uFB01"), (std::vector<int32_t>{4, 4})) << "searched in the normalized text";
  EXPECT_EQ(tokenizer.encode("fl\uFB02"), (std::vector<int32_t>{5})) << "searched in the text itself";
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{4, 5}), "fi\uFB02");
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{4, 5}, true), "fi") << "skipped by string, as Hugging Face does";
}

// A pattern that would backtrack for ever ends with an error, soon, and the tokenizer works on.
TEST(TokenizerJson, PatternThatNeedsTooManySteps) {
  for (const char* pattern : {"(?:a+)+$c", "(?:a|aa)+$c", "(?:a*)*\\nc", "a*a*a*a*a*a*\\nc"}) {
    Json file = small_file();
    file["pre_tokenizer"] = {
        {"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
    Tokenizer tokenizer = Tokenizer::from_json(file.dump(), "test.json");
    try {
      tokenizer.encode(std::string(3000, 'a') + " c");
      FAIL() << "no error for " << pattern;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUnsupported);
      EXPECT_THAT(e.what(), HasSubstr("test.json.pre_tokenizer"));
    }
    EXPECT_EQ(tokenizer.encode("ab"), (std::vector<int32_t>{2}));
  }
}

// A file cannot turn a short text into gigabytes: what can be inserted is bounded when it is read.
TEST(TokenizerJson, ComponentsThatMultiplyTheText) {
  auto unsupported = ErrorCode::kUnsupported;
  auto replace = [](Json pattern, size_t bytes) {
    return Json{{"type", "Replace"}, {"pattern", pattern}, {"content", std::string(bytes, 'a')}};
  };
  for (std::string key : {"normalizer", "decoder"}) {
    expect_error([&](Json& f) { f[key] = replace({{"String", "a"}}, 65); }, unsupported, "more than 64 bytes");
    expect_error([&](Json& f) { f[key] = replace({{"String", "a"}}, 17); }, unsupported, "more than 16 times longer");
    expect_error([&](Json& f) { f[key] = replace({{"Regex", "a*"}}, 16); }, unsupported, "more than 16 times longer");
    Json twice = Json::array({replace({{"String", "a"}}, 5), replace({{"String", "aa"}}, 8)});
    expect_error(
        [&](Json& f) {
          f[key] = {{"type", "Sequence"}, {key + "s", twice}};
        },
        unsupported, "more than 16 times longer");
  }
  expect_error(
      [](Json& f) {
        f["normalizer"] = {{"type", "Prepend"}, {"prepend", std::string(65, 'a')}};
      },
      unsupported, "64 bytes");
  Json metaspace = {{"type", "Metaspace"}, {"replacement", "x"}};
  expect_error(
      [&](Json& f) {
        f["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {metaspace, metaspace}}};
      },
      unsupported, "a second Metaspace");
}

// Damaged files: each either loads and behaves, or gives an Error. The fuzz target goes on from here.
TEST(TokenizerJson, DamagedFiles) {
  std::mt19937 random(3);
  for (const char* name : {"llama2", "llama3", "added"}) {
    const std::string whole =
        read_text_file(std::string(TESSERA_TEST_DATA) + "/tokenizers/synthetic/" + name + ".json");
    EXPECT_EQ(check_tokenizer(whole, "Hello  wörld <s> 123\n\xFF"), "");
    std::uniform_int_distribution<size_t> place(0, whole.size() - 1);
    std::uniform_int_distribution<int> byte(0, 255);
    for (int round = 0; round < 150; ++round) {
      std::string damaged = whole;
      for (int i = 0; i < 3; ++i) damaged[place(random)] = round % 2 == 0 ? static_cast<char>(byte(random)) : '9';
      ASSERT_EQ(check_tokenizer(damaged, "Hello  wörld <s> 123\n\xFF"), "");
    }
  }
}

}  // namespace
}  // namespace tessera
