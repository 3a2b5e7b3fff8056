#include "text/tokenizer_json.h"

#include <map>
#include <optional>

#include "core/error.h"
#include "core/log.h"
#include "text/byte_alphabet.h"
#include "text/json_node.h"
#include "text/tokenizer_components.h"

namespace tessera {
namespace {

// Finds tokens by the string the file writes, in whichever form the vocabulary keeps them.
class TokenFinder {
 public:
  TokenFinder(const Vocab& vocab, bool byte_level) : vocab_(vocab), byte_level_(byte_level) {}

  int32_t find(std::string_view text) {
    raw_.clear();
    if (byte_level_ && byte_alphabet_decode(text, raw_)) return vocab_.find(raw_, Vocab::Form::kBytes);
    return vocab_.find(text, Vocab::Form::kText);
  }

  struct Merge {
    int32_t left;
    int32_t right;
    int32_t merged;
  };
  Merge find_merge(std::string_view left, std::string_view right) {
    raw_.clear();
    if (byte_level_ && byte_alphabet_decode(left, raw_)) {
      size_t middle = raw_.size();
      if (byte_alphabet_decode(right, raw_)) {
        std::string_view raw = raw_;
        return {vocab_.find(raw.substr(0, middle), Vocab::Form::kBytes),
                vocab_.find(raw.substr(middle), Vocab::Form::kBytes), vocab_.find(raw, Vocab::Form::kBytes)};
      }
    }
    joined_.assign(left);
    joined_ += right;
    return {find(left), find(right), find(joined_)};
  }

 private:
  const Vocab& vocab_;
  bool byte_level_;
  std::string raw_;
  std::string joined_;
};

void read_vocab(const JsonNode& node, TokenizerParts& parts) {
  simdjson::dom::object entries = node.object();
  parts.vocab = Vocab(entries.size());
  std::string raw;
  for (auto [token, value] : entries) {
    int64_t id = 0;
    if (value.get_int64().get(id) != simdjson::SUCCESS || id < 0 || id > Vocab::kMaxId) {
      node.corrupt(fmt::format("the id of token \"{:.100}\" is not a whole number from 0 to {}", token, Vocab::kMaxId));
    }
    if (token.size() > Vocab::kMaxTokenBytes) {
      node.corrupt(fmt::format("token {} has {} bytes, more than the {} a token may have", id, token.size(),
                               Vocab::kMaxTokenBytes));
    }
    raw.clear();
    bool bytes = parts.bpe.byte_level && byte_alphabet_decode(token, raw);
    auto result = parts.vocab.add(bytes ? std::string_view(raw) : token,
                                  bytes ? Vocab::Form::kBytes : Vocab::Form::kText, static_cast<int32_t>(id));
    if (result == Vocab::AddResult::kDuplicateToken)
      node.corrupt(fmt::format("token \"{:.100}\" appears twice", token));
    if (result == Vocab::AddResult::kDuplicateId) node.corrupt(fmt::format("id {} belongs to two tokens", id));
  }
}

// The two halves of a merge: ["a", "b"], or "a b" in older files.
struct Halves {
  std::string_view left;
  std::string_view right;
};
std::optional<Halves> halves_of(simdjson::dom::element item) {
  Halves halves;
  std::string_view line;
  if (item.get_string().get(line) == simdjson::SUCCESS) {
    size_t space = line.find(' ');
    if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) return std::nullopt;
    return Halves{line.substr(0, space), line.substr(space + 1)};
  }
  simdjson::dom::array pair;
  if (item.get_array().get(pair) != simdjson::SUCCESS || pair.size() != 2) return std::nullopt;
  if (pair.at(0).get_string().get(halves.left) != simdjson::SUCCESS) return std::nullopt;
  if (pair.at(1).get_string().get(halves.right) != simdjson::SUCCESS) return std::nullopt;
  return halves;
}

void read_merges(const JsonNode& node, TokenizerParts& parts) {
  simdjson::dom::array items;
  if (node.value().get_array().get(items) != simdjson::SUCCESS) node.corrupt("is not an array");
  // Counted by walking: the size that simdjson keeps is capped at 2^24 - 1.
  int64_t count = 0;
  for ([[maybe_unused]] simdjson::dom::element item : items) ++count;
  if (count > TokenizerParts::kMaxMerges) {
    node.corrupt(fmt::format("has {} merges, more than the {} supported", count, TokenizerParts::kMaxMerges));
  }
  parts.merges = MergeTable(static_cast<size_t>(count));
  TokenFinder finder(parts.vocab, parts.bpe.byte_level);
  uint32_t rank = 0;
  for (simdjson::dom::element item : items) {
    std::string_view line;
    if (item.get_string().get(line) == simdjson::SUCCESS && line.starts_with("#version")) continue;
    std::optional<Halves> halves = halves_of(item);
    if (!halves) node.corrupt(fmt::format("merge {} is neither two strings nor one string with one space", rank));
    TokenFinder::Merge merge = finder.find_merge(halves->left, halves->right);
    if (merge.left < 0 || merge.right < 0 || merge.merged < 0) {
      node.corrupt(fmt::format("merge {} joins \"{:.100}\" and \"{:.100}\", but the vocabulary lacks {}", rank,
                               halves->left, halves->right,
                               merge.left < 0 || merge.right < 0 ? "one of them" : "what they give"));
    }
    parts.merges.set(merge.left, merge.right, rank++, merge.merged);
  }
}

void read_model(const JsonNode& node, TokenizerParts& parts) {
  if (node.has("type") && node.type() != "BPE") node.unsupported_type("BPE");
  for (std::string_view affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (node.has(affix) && !node.at(affix).string().empty())
      node.at(affix).unsupported("is set, which is not supported");
  }
  if (node.has("dropout")) {
    double dropout = 0;
    if (node.at("dropout").value().get_double().get(dropout) != simdjson::SUCCESS)
      node.at("dropout").corrupt("is not a number");
    if (dropout != 0) node.at("dropout").unsupported("is set: encoding would be random");
  }
  parts.bpe.byte_fallback = node.flag("byte_fallback", false);
  parts.bpe.ignore_merges = node.flag("ignore_merges", false);
  parts.bpe.fuse_unk = node.flag("fuse_unk", false);
  if (node.has("unk_token")) parts.bpe.unk_token = node.at("unk_token").string();
  read_vocab(node.at("vocab"), parts);
  read_merges(node.at("merges"), parts);
}

// Ids are given as Hugging Face's library gives them: the vocabulary's where it has the string, otherwise the next free
// one after as many as the vocabulary has. The "id" in the file is what the writer believed them to be.
void read_added_tokens(const JsonNode& node, TokenizerParts& parts) {
  std::map<std::string, size_t> known;  // ordered: no file can aim for collisions
  TokenFinder finder(parts.vocab, parts.bpe.byte_level);
  auto next_id = static_cast<int32_t>(parts.vocab.size());
  int64_t moved = 0;
  std::string first_moved;
  for (const JsonNode& item : node.items()) {
    AddedToken token;
    token.content = item.at("content").string();
    if (token.content.empty()) continue;
    if (token.content.size() > AddedTokenMatcher::kMaxContentBytes) {
      item.corrupt(fmt::format("has {} bytes, more than the {} an added token may have", token.content.size(),
                               AddedTokenMatcher::kMaxContentBytes));
    }
    token.special = item.flag("special", false);
    token.single_word = item.flag("single_word", false);
    token.lstrip = item.flag("lstrip", false);
    token.rstrip = item.flag("rstrip", false);
    token.normalized = item.flag("normalized", !token.special);
    auto [place, is_new] = known.try_emplace(token.content, parts.added.size());
    if (!is_new) {
      AddedToken& earlier = parts.added[place->second];
      token.id = earlier.id;
      token.special = token.special || earlier.special;
      earlier = std::move(token);
      continue;
    }
    token.id = finder.find(token.content);
    if (token.id < 0) {
      token.id = next_id++;
      if (token.id > Vocab::kMaxId) item.corrupt(fmt::format("its id would be more than {}", Vocab::kMaxId));
      if (parts.vocab.has(token.id)) {
        item.corrupt(
            fmt::format("its id would be {}, which a token of the vocabulary has: ids there have gaps", token.id));
      }
    }
    if (item.has("id") && item.at("id").integer(INT64_MIN, INT64_MAX) != token.id && moved++ == 0) {
      first_moved = fmt::format("{} has id {}", item.where(), token.id);
    }
    parts.added.push_back(std::move(token));
  }
  if (moved > 0)
    log::warn("{} added tokens have other ids than the file says, as in other libraries; first: {}", moved,
              first_moved);
}

void check_template_ids(const JsonNode& root, const TokenizerParts& parts) {
  auto exists = [&](int32_t id) {
    if (parts.vocab.has(id)) return true;
    for (const AddedToken& token : parts.added) {
      if (token.id == id) return true;
    }
    return false;
  };
  for (const std::vector<int32_t>* ids : {&parts.prefix, &parts.suffix}) {
    for (int32_t id : *ids) {
      if (!exists(id)) root.corrupt(fmt::format("the post-processor adds id {}, which is no token", id));
    }
  }
}

}  // namespace

TokenizerParts parse_tokenizer_json(std::string_view json, const std::string& name) {
  if (json.size() > static_cast<size_t>(TokenizerParts::kMaxFileBytes)) {
    fail(ErrorCode::kCorrupt, "{}: {} bytes is more than the {} a tokenizer may have", name, json.size(),
         TokenizerParts::kMaxFileBytes);
  }
  simdjson::dom::parser parser;
  simdjson::dom::element document;
  if (auto error = parser.parse(json.data(), json.size()).get(document); error != simdjson::SUCCESS) {
    fail(ErrorCode::kCorrupt, "{}: not valid JSON ({}); is the download complete?", name,
         simdjson::error_message(error));
  }
  JsonNode root(document, name);
  TokenizerParts parts;
  parts.name = name;
  auto read = [&](std::string_view key, auto reader) {
    if (root.has(key)) reader(root.at(key), parts);
  };
  read("pre_tokenizer", read_pre_tokenizer);
  read("normalizer", read_normalizer);
  read_model(root.at("model"), parts);
  read("added_tokens", read_added_tokens);
  read("post_processor", read_post_processor);
  if (root.has("decoder")) {
    read_decoder(root.at("decoder"), parts);
  } else {
    parts.decoder.add(JoinStage{});
  }
  check_template_ids(root, parts);
  return parts;
}

}  // namespace tessera
