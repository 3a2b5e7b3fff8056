#include "text/harmony_header.h"

#include <algorithm>
#include <iterator>

#include "text/utf8_lossy.h"

namespace tessera {
namespace {

using Mark = HarmonyHeaderText::Mark;
using Segment = HarmonyHeaderText::Segment;

constexpr std::string_view kChannels[] = {"analysis", "commentary", "final"};
constexpr std::string_view kTypes[] = {"json", "code", "text", "plain", "xml", "yaml"};
constexpr std::string_view kAssistant = "assistant";

template <size_t N>
bool contains(const std::string_view (&names)[N], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

std::string_view skip_space(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  return text;
}

std::string_view first_word(std::string_view text) {
  const auto end = std::find_if(text.begin(), text.end(), is_space);
  return text.substr(0, static_cast<size_t>(end - text.begin()));
}

// Bytes that names of channels, recipients and types are made of; those of other scripts are allowed.
bool is_name_byte(char c) {
  const auto b = static_cast<unsigned char>(c);
  return b >= 0x80 || (b >= '0' && b <= '9') || (b >= 'a' && b <= 'z') || (b >= 'A' && b <= 'Z') || c == '_' ||
         c == '-' || c == '.' || c == ':' || c == '/' || c == '+' || c == '@';
}

bool is_name(std::string_view word) {
  return !word.empty() && std::all_of(word.begin(), word.end(), is_name_byte);
}

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool starts_like_recipient(std::string_view word) {
  const char c = word.front();
  return c == '_' || is_letter(c) || static_cast<unsigned char>(c) >= 0x80;
}

// The part of "to=X..." that is X: up to a byte that opens something else, such as the arguments.
std::string_view recipient_of(std::string_view word) {
  word.remove_prefix(3);
  return word.substr(0, word.find_first_of("<{[(\"'"));
}

// The channel at the front of `text`, or nothing; `text` becomes what follows it.
std::string_view take_channel(std::string_view& text) {
  std::string_view word = first_word(text);
  word = word.substr(0, word.find('<'));
  if (!contains(kChannels, word)) {
    for (std::string_view known : kChannels) {
      if (!word.starts_with(known)) continue;
      const std::string_view rest = word.substr(known.size());
      const char next = rest.front();
      const bool goes_on = is_letter(next) || (next >= '0' && next <= '9') || next == '_' || next == '-';
      if (!goes_on || rest.starts_with("to=")) word = known;
    }
    if (!is_name(word)) return {};
  }
  text.remove_prefix(word.size());
  return word;
}

// Reads the front of a header: who speaks. Shared by complete headers and bare messages.
struct Reader {
  HarmonyHeader header;
  bool channel_mark = false;   // there was a <|channel|>
  bool known_channel = false;  // and one of the three names

  void set_channel(std::string_view name) {
    const bool known = contains(kChannels, name);
    if (name.empty() || (known_channel && !known)) return;
    header.channel = name;
    known_channel = known;
  }

  // A role word that needs no second word to be one.
  bool set_known_role(std::string_view word, const HarmonyAuthor& fallback) {
    if (contains(kChannels, word)) {  // <|start|>final<|message|>
      header.author = fallback;
      set_channel(word);
      return true;
    }
    const size_t colon = word.find(':');
    const std::optional<HarmonyRole> role = harmony_role(word.substr(0, colon));
    if (role && colon != std::string_view::npos && role != HarmonyRole::kTool) {
      header.author = {*role, std::string(word.substr(colon + 1))};
      return true;
    }
    if (role && colon == std::string_view::npos) {
      header.author = {*role, *role == HarmonyRole::kTool ? "tool" : ""};
      return true;
    }
    std::string_view rest = word;
    while (rest.starts_with(kAssistant)) rest.remove_prefix(kAssistant.size());
    if (rest.size() == word.size() || (!rest.empty() && !contains(kChannels, rest))) return false;
    header.author = {HarmonyRole::kAssistant, {}};
    set_channel(rest);
    return true;
  }

  // Takes the role from the front of `text`; a word that is no known role is taken where `unknown_too`.
  void take_role(std::string_view& text, const HarmonyHeaderContext& context, bool unknown_too) {
    header.author = context.author;
    std::string_view rest = text;
    const std::string_view word = first_word(rest);
    if (word.empty()) return;
    rest.remove_prefix(word.size());
    if (context.author_known) {
      if (word != harmony_role_name(context.author.role)) return;
    } else if (!set_known_role(word, context.author)) {
      if (!unknown_too && word.size() > kAssistant.size() && word.starts_with(kAssistant)) {
        const char next = word[kAssistant.size()];  // "assistantWell, ...": the role and the text run together
        if (next < 'a' || next > 'z') text.remove_prefix(kAssistant.size());
        return;
      }
      if (!is_name(word) || (!unknown_too && !skip_space(rest).starts_with("to="))) return;
      header.author = {HarmonyRole::kTool, std::string(word)};
    }
    text = rest;
  }

  // <|constrain|>analysis stands for <|channel|>analysis where no channel was given.
  void set_constrained(std::string_view type) {
    if (contains(kChannels, type)) {
      if (header.channel.empty()) set_channel(type);
      return;
    }
    header.content_type = type;
    header.constrained = true;
  }

  HarmonyHeader finish() {
    header.author.name = utf8_lossy(header.author.name);
    header.recipient = utf8_lossy(header.recipient);
    header.channel = utf8_lossy(header.channel);
    header.content_type = utf8_lossy(header.content_type);
    return std::move(header);
  }
};

struct FullReading {
  Reader reader;
  std::vector<std::string_view> words;  // neither role, channel, to=X nor constrained type
};

FullReading read_all(const HarmonyHeaderText& text, const HarmonyHeaderContext& context) {
  FullReading reading;
  Reader& reader = reading.reader;
  reader.header.author = context.author;
  for (const Segment& segment : text.segments) {
    std::string_view rest = segment.text;
    if (segment.mark == Mark::kChannel) {
      reader.channel_mark = true;
      reader.set_channel(take_channel(rest));
    } else if (segment.mark == Mark::kConstrain) {
      const std::string_view type = first_word(rest);
      const bool alone = skip_space(rest.substr(type.size())).empty();
      if (!type.empty() && (alone || contains(kTypes, type) || contains(kChannels, type))) {
        reader.set_constrained(type);
        rest.remove_prefix(type.size());
      }
    } else if (&segment == &text.segments.front()) {
      reader.take_role(rest, context, true);
    }
    for (rest = skip_space(rest); !rest.empty(); rest = skip_space(rest)) {
      const std::string_view word = first_word(rest);
      rest.remove_prefix(word.size());
      if (!word.starts_with("to=")) {
        if (word != harmony_role_name(reader.header.author.role)) reading.words.push_back(word);
      } else if (const std::string_view recipient = recipient_of(word); !recipient.empty()) {
        reader.header.recipient = recipient;
      }
    }
  }
  return reading;
}

// The words that carry no sign of what they are, by their number and look.
void place_words(const std::vector<std::string_view>& words, HarmonyHeader& header) {
  if (words.empty()) return;
  const std::string_view last = words.back();
  const auto recipient_like = [](std::string_view word) { return is_name(word) && starts_like_recipient(word); };
  if (header.recipient.empty() && header.content_type.empty()) {
    if (words.size() == 2 && recipient_like(words[0]) && is_name(last)) {
      header.recipient = words[0];
      header.content_type = last;
    } else if (contains(kTypes, last)) {
      header.content_type = last;
    } else if (words.size() == 1 && recipient_like(last)) {
      header.recipient = last;
    }
  } else if (header.recipient.empty()) {
    if (words.size() == 1 && recipient_like(last)) header.recipient = last;
  } else if (header.content_type.empty()) {
    const auto type = std::find_if(words.rbegin(), words.rend(), is_name);
    if (type != words.rend()) header.content_type = *type;
  }
}

}  // namespace

void HarmonyHeaderText::mark(Mark mark) {
  if (!segments.empty() && segments.back().text.empty()) segments.pop_back();
  segments.push_back({mark, {}});
}

bool HarmonyHeaderText::append(char byte) {
  if (is_space(byte) && (segments.empty() || segments.back().text.empty())) return true;
  if (bytes == kMaxHarmonyHeader) return false;
  if (segments.empty()) segments.push_back({});
  segments.back().text += byte;
  ++bytes;
  return true;
}

void HarmonyHeaderText::clear() {
  segments.clear();
  bytes = 0;
}

HarmonyHeader read_harmony_header(const HarmonyHeaderText& text, const HarmonyHeaderContext& context) {
  FullReading reading = read_all(text, context);
  place_words(reading.words, reading.reader.header);
  return reading.reader.finish();
}

bool harmony_header_is_prose(const HarmonyHeaderText& text, const HarmonyHeaderContext& context) {
  const FullReading reading = read_all(text, context);
  return reading.words.size() > 2 && reading.reader.header.recipient.empty();
}

HarmonyBareMessage read_harmony_bare(const HarmonyHeaderText& text, const HarmonyHeaderContext& context) {
  Reader reader;
  reader.header.author = context.author;
  std::string_view content;
  for (const Segment& segment : text.segments) {
    std::string_view rest = segment.text;
    if (segment.mark == Mark::kChannel) {
      reader.channel_mark = true;
      std::string_view after = rest;
      const std::string_view name = take_channel(after);
      const std::string_view next = skip_space(after);
      // Another word than the three names is a channel only where nothing but a recipient follows it.
      if (contains(kChannels, name) || next.empty() || next.starts_with("to=")) {
        reader.set_channel(name);
        rest = after;
      }
    } else if (segment.mark == Mark::kConstrain) {
      const auto end = std::find_if_not(rest.begin(), rest.end(), is_name_byte);
      const std::string_view type = rest.substr(0, static_cast<size_t>(end - rest.begin()));
      if (contains(kTypes, type) || contains(kChannels, type)) {
        reader.set_constrained(type);
        rest.remove_prefix(type.size());
      }
    } else if (&segment == &text.segments.front()) {
      reader.take_role(rest, context, false);
    }
    for (rest = skip_space(rest); !rest.empty(); rest = skip_space(rest)) {
      const std::string_view word = first_word(rest);
      if (word.starts_with("to=") && !recipient_of(word).empty()) {
        reader.header.recipient = recipient_of(word);
        rest.remove_prefix(3 + reader.header.recipient.size());
      } else if (!reader.header.recipient.empty() && reader.header.content_type.empty() && contains(kTypes, word)) {
        reader.header.content_type = word;
        rest.remove_prefix(word.size());
      } else {
        break;
      }
    }
    if (!rest.empty()) content = rest;
  }
  if (reader.channel_mark && reader.header.channel.empty()) reader.header.channel = kChannels[0];
  std::string kept(content);
  return {reader.finish(), std::move(kept)};
}

}  // namespace tessera
