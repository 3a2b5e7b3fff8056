#include "text/tokenizer_components.h"

#include <algorithm>
#include <functional>

#include "core/error.h"
#include "text/utf8.h"

namespace tessera {
namespace {

constexpr int kMaxDepth = 8;       // of sequences in sequences
constexpr size_t kMaxStages = 64;  // published files have up to six
// What components may insert, so that a file cannot turn a short text into gigabytes. Published files replace a space
// by the three bytes of a mark.
constexpr size_t kMaxInserted = 64;  // bytes at once
constexpr double kMaxGrowth = 16;
constexpr size_t kMaxTemplateTokens = 64;  // published files have one or two

// ByteLevel's own pattern: GPT-2's (Radford et al. 2019, encoder.py).
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Calls read(component) for the component, or for each one of a (nested) sequence.
void for_each_component(const JsonNode& node, std::string_view list, const std::function<void(const JsonNode&)>& read,
                        int depth = 0) {
  if (node.type() != "Sequence") return read(node);
  if (depth == kMaxDepth) node.unsupported(fmt::format("sequences nested more than {} deep", kMaxDepth));
  for (const JsonNode& item : node.at(list).items()) {
    if (item.is_null()) item.corrupt("is null");
    for_each_component(item, list, read, depth + 1);
  }
}

void check_stages(const JsonNode& node, size_t stages) {
  if (stages >= kMaxStages) node.unsupported(fmt::format("more than {} components", kMaxStages));
}

std::string not_empty(const JsonNode& node) {
  if (node.string().empty()) node.unsupported("is empty, which is not supported");
  return std::string(node.string());
}

// {"String": "..."} or {"Regex": "..."}
std::variant<Regex, std::string> read_pattern(const JsonNode& node) {
  if (node.has("String")) return not_empty(node.at("String"));
  return Regex(node.at("Regex").string(), node.where());
}

std::string inserted_text(const JsonNode& node) {
  if (node.string().size() > kMaxInserted) node.unsupported(fmt::format("a text of more than {} bytes", kMaxInserted));
  return std::string(node.string());
}

std::string one_character(const JsonNode& node) {
  std::string text = not_empty(node);
  if (static_cast<size_t>(utf8_length(text[0])) != text.size()) node.corrupt("is not one character");
  return text;
}

// Serves the normalizer and the decoder of this name. `growth` is how much longer the replacements before it can make a
// text.
template <class Target>
void add_replace(const JsonNode& node, Target& target, double& growth) {
  auto pattern = read_pattern(node.at("pattern"));
  std::string content = inserted_text(node.at("content"));
  const auto* replaced = std::get_if<std::string>(&pattern);
  auto added = static_cast<double>(content.size());
  growth *= std::max(1.0, replaced != nullptr ? added / static_cast<double>(replaced->size()) : added + 1);
  if (growth > kMaxGrowth)
    node.unsupported(fmt::format("replacements that make a text more than {} times longer", kMaxGrowth));
  if (auto* literal = std::get_if<std::string>(&pattern)) {
    target.add(ReplaceText{std::move(*literal), std::move(content)});
  } else {
    target.add(ReplaceMatches{std::get<Regex>(std::move(pattern)), std::move(content)});
  }
}

SplitBehavior read_behavior(const JsonNode& node) {
  std::string_view name = node.string();
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  node.corrupt(
      fmt::format("\"{}\" is not one of Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous", name));
}

MetaspaceStage::Prepend read_prepend(const JsonNode& node) {
  auto prepend = MetaspaceStage::Prepend::kAlways;
  if (node.has("prepend_scheme")) {
    JsonNode scheme = node.at("prepend_scheme");
    std::string_view name = scheme.string();
    if (name == "first") {
      prepend = MetaspaceStage::Prepend::kFirst;
    } else if (name == "never") {
      prepend = MetaspaceStage::Prepend::kNever;
    } else if (name != "always") {
      scheme.corrupt(fmt::format("\"{}\" is not one of always, first, never", name));
    }
  }
  // Files from before prepend_scheme have add_prefix_space instead.
  if (!node.flag("add_prefix_space", true)) {
    if (node.has("prepend_scheme") && prepend != MetaspaceStage::Prepend::kNever) {
      node.corrupt("add_prefix_space contradicts prepend_scheme");
    }
    return MetaspaceStage::Prepend::kNever;
  }
  return prepend;
}

void add_pre_tokenizer(const JsonNode& node, TokenizerParts& parts) {
  PreTokenizer& target = parts.pre_tokenizer;
  check_stages(node, target.stages());
  if (parts.bpe.byte_level) node.unsupported("nothing may follow ByteLevel");
  std::string_view type = node.type();
  if (type == "Split") {
    target.add(
        SplitStage{read_pattern(node.at("pattern")), read_behavior(node.at("behavior")), node.flag("invert", false)});
  } else if (type == "ByteLevel") {
    if (node.flag("add_prefix_space", true)) target.add(PrefixSpaceStage{});
    if (node.flag("use_regex", true)) target.add(SplitStage{Regex(kGpt2Pattern, node.where())});
    parts.bpe.byte_level = true;
  } else if (type == "Metaspace") {
    std::string mark = one_character(node.at("replacement"));
    if (target.has_metaspace()) node.unsupported("a second Metaspace");
    target.add(MetaspaceStage{mark, read_prepend(node)});
    if (node.flag("split", true)) target.add(SplitStage{mark, SplitBehavior::kMergedWithNext});
  } else if (type == "Digits") {
    bool individual = node.flag("individual_digits", false);
    target.add(
        SplitStage{Regex("\\p{N}", node.where()), individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous});
  } else {
    node.unsupported_type("ByteLevel, Digits, Metaspace, Sequence, Split");
  }
}

void add_normalizer(const JsonNode& node, TokenizerParts& parts, double& growth) {
  Normalizer& target = parts.normalizer;
  check_stages(node, target.steps());
  std::string_view type = node.type();
  if (type == "NFC") {
    target.add(UnicodeForm{UnicodeForm::Form::kNfc});
  } else if (type == "NFD") {
    target.add(UnicodeForm{UnicodeForm::Form::kNfd});
  } else if (type == "NFKC") {
    target.add(UnicodeForm{UnicodeForm::Form::kNfkc});
  } else if (type == "NFKD") {
    target.add(UnicodeForm{UnicodeForm::Form::kNfkd});
  } else if (type == "Prepend") {
    target.add(PrependText{inserted_text(node.at("prepend"))});
  } else if (type == "Replace") {
    add_replace(node, target, growth);
  } else if (type == "Strip") {
    target.add(StripSpace{node.flag("strip_left", true), node.flag("strip_right", true)});
  } else {
    node.unsupported_type("NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence, Strip");
  }
}

void add_decoder(const JsonNode& node, TokenizerParts& parts, double& growth) {
  Decoder& target = parts.decoder;
  check_stages(node, target.stages());
  std::string_view type = node.type();
  if (type == "ByteLevel") {
    target.add(ByteLevelStage{});
  } else if (type == "ByteFallback") {
    target.add(ByteFallbackStage{});
  } else if (type == "Fuse") {
    target.add(FuseStage{});
  } else if (type == "Strip") {
    constexpr int64_t kMaxStrip = 1 << 20;
    target.add(StripTokenStage{one_character(node.at("content")), node.at("start").integer(0, kMaxStrip),
                               node.at("stop").integer(0, kMaxStrip)});
  } else if (type == "Replace") {
    add_replace(node, target, growth);
  } else if (type == "Metaspace") {
    target.add(MetaspaceDecodeStage{one_character(node.at("replacement")),
                                    read_prepend(node) != MetaspaceStage::Prepend::kNever});
  } else {
    node.unsupported_type("ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Sequence, Strip");
  }
}

// {"single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}], "special_tokens": {"<s>": {"ids": [1]}}}
void add_template(const JsonNode& node, TokenizerParts& parts) {
  bool past_text = false;
  for (const JsonNode& piece : node.at("single").items()) {
    if (piece.has("Sequence")) {
      if (past_text || piece.at("Sequence").at("id").string() != "A") piece.unsupported("anything but one sequence A");
      past_text = true;
      continue;
    }
    JsonNode special = node.at("special_tokens").at(piece.at("SpecialToken").at("id").string());
    for (const JsonNode& id : special.at("ids").items()) {
      if (parts.prefix.size() + parts.suffix.size() == kMaxTemplateTokens) node.unsupported("a longer template");
      (past_text ? parts.suffix : parts.prefix).push_back(static_cast<int32_t>(id.integer(0, Vocab::kMaxId)));
    }
  }
  if (!past_text) node.unsupported("a template without the sequence A");
}

}  // namespace

void read_normalizer(const JsonNode& node, TokenizerParts& parts) {
  double growth = 1;
  for_each_component(node, "normalizers", [&](const JsonNode& item) { add_normalizer(item, parts, growth); });
}

void read_pre_tokenizer(const JsonNode& node, TokenizerParts& parts) {
  for_each_component(node, "pretokenizers", [&](const JsonNode& item) { add_pre_tokenizer(item, parts); });
}

void read_post_processor(const JsonNode& node, TokenizerParts& parts) {
  bool have_template = false;
  for_each_component(node, "processors", [&](const JsonNode& item) {
    std::string_view type = item.type();
    if (type == "ByteLevel") return;  // moves offsets, which nobody here has
    if (type != "TemplateProcessing") item.unsupported_type("ByteLevel, Sequence, TemplateProcessing");
    if (have_template) item.unsupported("a second TemplateProcessing");
    have_template = true;
    add_template(item, parts);
  });
}

void read_decoder(const JsonNode& node, TokenizerParts& parts) {
  double growth = 1;
  for_each_component(node, "decoders", [&](const JsonNode& item) { add_decoder(item, parts, growth); });
}

}  // namespace tessera
