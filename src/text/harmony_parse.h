// Streaming harmony parser. Total: every sequence of tokens gives well-formed messages and never an error, and the
// result depends only on the special tokens and the bytes between them, not on how text is cut into tokens. What
// openai-harmony's parser accepts as well-formed reads the same here (tools/compare_harmony.py).
//
// What is read outside the format, and how:
//   text before any header, or after an end         a header without <|start|>, see the next lines
//   <|channel|>, <|message|> without <|start|>       a header of the given role (assistant)
//   no <|message|> before the message ends           "bare": role, channel, to=X and <|constrain|>T are taken from the
//                                                    front of the text, the rest is the content; `bare` is set
//   the same, but the header says only a role        no message
//   header longer than kMaxHarmonyHeader bytes       bare as well; what follows is content
//   <|start|> in a header or content                 ends that message (kCut), starts another
//   <|channel|> in content                           ends that message (kCut), starts another of the same author
//   <|channel|> after more than two words of prose   likewise: the prose is a bare message
//   <|message|>, <|constrain|> in content            dropped
//   <|end|>, <|return|>, <|call|> between messages   dropped
//   an eos token, finish()                           ends the message (kCut)
//   several channels                                 the last of analysis, commentary, final; else the last
//   "commentary?", "finalto=f"                       the known name; what follows counts as words
//   <|constrain|>analysis                            a channel, when there is none
//   "assistantfinal", "assistantassistant", "final"  as a role: the assistant (on that channel)
//   "user:bob", "functions.f"                        user named bob; a tool of that name, like any unknown role
//   to=X anywhere                                    the recipient; the last one wins
//   one word more: json, code, ...                   the content type; another name is the recipient
//   two words more, no to=X                          recipient and content type
//   other words before <|message|>                   dropped, as the role's name again is
//   <|channel|> without a usable name, bare          analysis: such text was never meant for the user
//   invalid UTF-8                                    U+FFFD (utf8_lossy.h); a special token ends a character
//
// Of what openai-harmony 0.0.8 accepts, it reads these differently: "final json" and "final <|constrain|>json" (a
// recipient there; its later versions read the second as here), and special tokens in content (text there). It fails on
// "user:bob" and on tools without a recipient, which it writes.
//
// Memory: the messages themselves, and at most kMaxHarmonyHeader bytes of header. Not thread-safe.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/harmony_header.h"
#include "text/harmony_types.h"
#include "text/utf8_lossy.h"

namespace tessera {

enum class HarmonyEnd : uint8_t {
  kOpen,    // still being read
  kEnd,     // <|end|>
  kReturn,  // <|return|>
  kCall,    // <|call|>
  kCut,     // by anything else
};

struct HarmonyParsed {
  HarmonyMessage message;  // content is one text: what has been read so far
  HarmonyEnd end = HarmonyEnd::kOpen;
  bool bare = false;  // there was no <|message|>

  const std::string& text() const { return std::get<std::string>(message.content.front()); }
};

struct HarmonyEvent {
  enum class Kind : uint8_t { kStarted, kDelta, kEnded };
  Kind kind;
  size_t message;     // index into messages(); its header no longer changes
  std::string delta;  // kDelta: the next part of the content, whole characters, never empty
};

class HarmonyParser {
 public:
  // Without `role` the stream starts where <|start|> may come; with it, right after the prompt's <|start|>ROLE.
  explicit HarmonyParser(HarmonyTokens tokens, std::optional<HarmonyRole> role = std::nullopt);

  // Reads one token: its id, and its bytes (ignored for special tokens; any bytes, also part of a character). Other
  // special tokens, such as reserved ones, are best given as no bytes. The events are valid until the next call.
  const std::vector<HarmonyEvent>& push(int32_t id, std::string_view bytes);
  // Closes what is open. Harmless when called again; tokens may follow.
  const std::vector<HarmonyEvent>& finish();

  const std::vector<HarmonyParsed>& messages() const { return messages_; }
  // The message whose content is being read, or null.
  const HarmonyParsed* current() const { return state_ == State::kContent ? &messages_.back() : nullptr; }

 private:
  enum class State : uint8_t { kBetween, kHeader, kContent };

  void on_special(HarmonySpecial special);
  void split_at_channel();
  void on_text(std::string_view bytes);
  void on_header_byte(char byte);
  void begin_header(HarmonyAuthor author, bool author_known);
  void open(HarmonyHeader header, bool bare);
  void add_content(std::string_view bytes);
  void emit_delta(std::string delta);
  void close_header(HarmonyEnd end);  // a header without <|message|>
  void close_content(HarmonyEnd end);
  void close(HarmonyEnd end);

  HarmonyTokens tokens_;
  HarmonyAuthor default_author_;
  State state_ = State::kBetween;
  HarmonyHeaderContext context_;  // in kHeader
  HarmonyHeaderText header_;      // in kHeader
  Utf8Lossy utf8_;                // in kContent
  std::vector<HarmonyParsed> messages_;
  std::vector<HarmonyEvent> events_;
};

// A whole stream at once: `bytes_of` gives a token's bytes.
template <class BytesOf>
std::vector<HarmonyParsed> parse_harmony(const std::vector<int32_t>& ids, const BytesOf& bytes_of,
                                         const HarmonyTokens& tokens, std::optional<HarmonyRole> role = std::nullopt) {
  HarmonyParser parser(tokens, role);
  for (int32_t id : ids) parser.push(id, bytes_of(id));
  parser.finish();
  return parser.messages();
}

}  // namespace tessera
