#include "text/harmony_parse.h"

#include <algorithm>

namespace tessera {

using Mark = HarmonyHeaderText::Mark;

HarmonyParser::HarmonyParser(HarmonyTokens tokens, std::optional<HarmonyRole> role)
    : tokens_(std::move(tokens)), default_author_{role.value_or(HarmonyRole::kAssistant), {}} {
  if (role == HarmonyRole::kTool) default_author_.name = "tool";  // a tool always has a name
  if (role) begin_header(default_author_, true);
}

const std::vector<HarmonyEvent>& HarmonyParser::push(int32_t id, std::string_view bytes) {
  events_.clear();
  if (const std::optional<HarmonySpecial> special = tokens_.find(id)) {
    on_special(*special);
  } else if (std::find(tokens_.eos.begin(), tokens_.eos.end(), id) != tokens_.eos.end()) {
    close(HarmonyEnd::kCut);
  } else {
    on_text(bytes);
  }
  return events_;
}

const std::vector<HarmonyEvent>& HarmonyParser::finish() {
  events_.clear();
  close(HarmonyEnd::kCut);
  return events_;
}

void HarmonyParser::on_special(HarmonySpecial special) {
  switch (special) {
    case HarmonySpecial::kStart:
      close(HarmonyEnd::kCut);
      begin_header(default_author_, false);
      return;
    case HarmonySpecial::kEnd:
      return close(HarmonyEnd::kEnd);
    case HarmonySpecial::kReturn:
      return close(HarmonyEnd::kReturn);
    case HarmonySpecial::kCall:
      return close(HarmonyEnd::kCall);
    case HarmonySpecial::kMessage:
      if (state_ == State::kBetween) begin_header(default_author_, true);
      if (state_ == State::kHeader) return open(read_harmony_header(header_, context_), false);
      break;
    case HarmonySpecial::kConstrain:
      if (state_ == State::kBetween) begin_header(default_author_, true);
      if (state_ == State::kHeader) return header_.mark(Mark::kConstrain);
      break;
    case HarmonySpecial::kChannel:
      if (state_ == State::kBetween) begin_header(default_author_, true);
      if (state_ == State::kHeader && !harmony_header_is_prose(header_, context_)) return header_.mark(Mark::kChannel);
      return split_at_channel();
  }
  // <|message|> or <|constrain|> in content: dropped, and it ends a character.
  std::string rest;
  utf8_.flush(rest);
  emit_delta(std::move(rest));
}

// The open message lacks its end: it is cut, and its author goes on in another channel.
void HarmonyParser::split_at_channel() {
  const size_t before = messages_.size();
  const bool in_content = state_ == State::kContent;
  HarmonyAuthor author = context_.author;
  close(HarmonyEnd::kCut);
  if (in_content || messages_.size() > before) author = messages_.back().message.author;
  begin_header(std::move(author), true);
  header_.mark(Mark::kChannel);
}

void HarmonyParser::on_text(std::string_view bytes) {
  if (bytes.empty()) return;
  if (state_ == State::kBetween) begin_header(default_author_, true);
  while (state_ == State::kHeader && !bytes.empty()) {
    on_header_byte(bytes.front());
    bytes.remove_prefix(1);
  }
  if (!bytes.empty()) add_content(bytes);
}

void HarmonyParser::on_header_byte(char byte) {
  if (header_.append(byte)) return;
  HarmonyBareMessage bare = read_harmony_bare(header_, context_);
  open(std::move(bare.header), true);
  add_content(bare.content + byte);
}

void HarmonyParser::begin_header(HarmonyAuthor author, bool author_known) {
  state_ = State::kHeader;
  context_ = {std::move(author), author_known};
  header_.clear();
}

void HarmonyParser::open(HarmonyHeader header, bool bare) {
  HarmonyParsed parsed;
  parsed.bare = bare;
  parsed.message = {std::move(header.author),       std::move(header.recipient), std::move(header.channel),
                    std::move(header.content_type), header.constrained,          {std::string()}};
  messages_.push_back(std::move(parsed));
  events_.push_back({HarmonyEvent::Kind::kStarted, messages_.size() - 1, {}});
  state_ = State::kContent;
  header_.clear();
}

void HarmonyParser::add_content(std::string_view bytes) {
  std::string delta;
  utf8_.push(bytes, delta);
  emit_delta(std::move(delta));
}

void HarmonyParser::emit_delta(std::string delta) {
  if (delta.empty()) return;
  std::get<std::string>(messages_.back().message.content.front()) += delta;
  events_.push_back({HarmonyEvent::Kind::kDelta, messages_.size() - 1, std::move(delta)});
}

void HarmonyParser::close_header(HarmonyEnd end) {
  HarmonyBareMessage bare = read_harmony_bare(header_, context_);
  state_ = State::kBetween;
  header_.clear();
  const HarmonyHeader& header = bare.header;
  if (header.recipient.empty() && header.channel.empty() && header.content_type.empty() && bare.content.empty()) return;
  open(std::move(bare.header), true);
  add_content(bare.content);
  close_content(end);
}

void HarmonyParser::close_content(HarmonyEnd end) {
  std::string rest;
  utf8_.flush(rest);
  emit_delta(std::move(rest));
  messages_.back().end = end;
  events_.push_back({HarmonyEvent::Kind::kEnded, messages_.size() - 1, {}});
  state_ = State::kBetween;
}

void HarmonyParser::close(HarmonyEnd end) {
  if (state_ == State::kHeader) return close_header(end);
  if (state_ == State::kContent) return close_content(end);
}

}  // namespace tessera
