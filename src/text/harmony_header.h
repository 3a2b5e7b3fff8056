// What the text between <|start|> and <|message|> means. Total: every header, however broken, has a defined reading;
// the rules are listed in harmony_parse.h. Thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/harmony_types.h"

namespace tessera {

inline constexpr size_t kMaxHarmonyHeader = 256;  // bytes of text in a header

// A header as it was read: text, each piece after the special token that stood before it.
struct HarmonyHeaderText {
  enum class Mark : uint8_t { kNone, kChannel, kConstrain };
  struct Segment {
    Mark mark = Mark::kNone;
    std::string text;
  };
  std::vector<Segment> segments;  // bytes, not yet valid UTF-8; empty segments only at the end
  size_t bytes = 0;               // of all texts

  void mark(Mark mark);
  // White space at the front of a segment is left out. False: the header is full, and the byte is not part of it.
  [[nodiscard]] bool append(char byte);
  void clear();
};

struct HarmonyHeader {
  HarmonyAuthor author;
  std::string recipient, channel, content_type;  // valid UTF-8; empty: none
  bool constrained = false;
};

// `author`: whose message it is where the text does not say. `author_known`: it was settled before the header (by the
// generation prompt), so the text need not start with a role.
struct HarmonyHeaderContext {
  HarmonyAuthor author;
  bool author_known = false;
};

// A header that <|message|> ended: words that fit nowhere are dropped.
HarmonyHeader read_harmony_header(const HarmonyHeaderText& text, const HarmonyHeaderContext& context);

// A header that something else ended, so that it holds the content as well. `content` gets the bytes that are not
// header, without white space before them.
struct HarmonyBareMessage {
  HarmonyHeader header;
  std::string content;
};
HarmonyBareMessage read_harmony_bare(const HarmonyHeaderText& text, const HarmonyHeaderContext& context);

// True when the text has more words than a header can hold and no recipient: a message whose <|message|> is missing.
bool harmony_header_is_prose(const HarmonyHeaderText& text, const HarmonyHeaderContext& context);

}  // namespace tessera
