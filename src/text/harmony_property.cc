#include "text/harmony_property.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "text/harmony.h"
#include "text/harmony_parse.h"

namespace tessera {
namespace {

constexpr int32_t kText = 1000;  // the id of every plain token here
constexpr int32_t kEos = 7;

// Text that headers are made of, and text that breaks them.
constexpr std::string_view kPhrases[] = {"assistant",
                                         "user",
                                         "system",
                                         "developer",
                                         "tool",
                                         "functions.get_weather",
                                         "user:bob",
                                         "assistantfinal",
                                         "analysis",
                                         "commentary",
                                         "final",
                                         "commentary?",
                                         "finalto=functions.f",
                                         "side-notes",
                                         " to=functions.f",
                                         " to=python",
                                         " to=assistant",
                                         " to=",
                                         "to=all",
                                         " json",
                                         " code",
                                         "json{\"a\":1}",
                                         " functions.f",
                                         "{\"a\": [1, 2]}",
                                         " ",
                                         "\n",
                                         "\t ",
                                         "??",
                                         " 2? ",
                                         "The user asks",
                                         " well then",
                                         "<|start|>",
                                         "<|message|>",
                                         "é",
                                         "\xE6\x9D",
                                         "\xB1",
                                         "\xF0\x9F",
                                         "\x99\x82",
                                         "\xFF",
                                         "\xC0\x80",
                                         "\xED\xA0\x80",
                                         "<",
                                         ":",
                                         "a"};

struct Atom {
  int32_t id = kText;
  std::string text;
};

struct Recipe {
  std::optional<HarmonyRole> role;
  std::vector<Atom> atoms;
  uint32_t cut_seed = 0;
};

HarmonyTokens tokens() {
  return {{0, 1, 2, 3, 4, 5, 6}, {kEos}};
}

Recipe read_recipe(std::string_view data) {
  Recipe recipe;
  size_t at = 0;
  const auto next = [&]() -> uint32_t { return at < data.size() ? static_cast<uint8_t>(data[at++]) : 0; };
  const uint32_t first = next();
  if (first % 3 != 0) recipe.role = first % 3 == 1 ? HarmonyRole::kAssistant : static_cast<HarmonyRole>(first / 3 % 5);
  recipe.cut_seed = next() * 2654435761u + 1;
  size_t total = 0;  // bytes of text; enough to pass the limit of a header a few times
  while (at < data.size() && total < 3 * kMaxHarmonyHeader) {
    const uint32_t op = next();
    if (op < 112) {
      recipe.atoms.push_back({static_cast<int32_t>(op % 8), {}});  // a special token, or the eos
    } else if (op < 224) {
      recipe.atoms.push_back({kText, std::string(kPhrases[(op * 31 + next()) % std::size(kPhrases)])});
    } else if (op < 248) {
      const size_t size = std::min<size_t>(op - 223, data.size() - at);
      recipe.atoms.push_back({kText, std::string(data.substr(at, size))});
      at += size;
    } else {  // a run that passes the limits of a header
      const std::string_view phrase = kPhrases[next() % std::size(kPhrases)];
      std::string run;
      while (run.size() < 40 * (op - 247)) run += phrase;
      recipe.atoms.push_back({kText, std::move(run)});
    }
    total += recipe.atoms.back().text.size();
  }
  return recipe;
}

bool valid_utf8(std::string_view text) {
  return utf8_lossy(text) == text;
}

bool same_header(const HarmonyMessage& a, const HarmonyMessage& b) {
  return a.author == b.author && a.recipient == b.recipient && a.channel == b.channel &&
         a.content_type == b.content_type && a.constrained == b.constrained;
}

// Parses atom by atom and watches the events.
class Watcher {
 public:
  explicit Watcher(const Recipe& recipe) : parser_(tokens(), recipe.role) {}

  void push(int32_t id, std::string_view text) { watch(parser_.push(id, text)); }
  void finish() {
    watch(parser_.finish());
    if (open_ || parser_.current() != nullptr) problem("a message is open after finish()");
    if (told_.size() != parser_.messages().size()) problem("a message was not told");
    for (size_t i = 0; i < told_.size(); ++i) check_message(i);
    if (!parser_.finish().empty()) problem("finish() twice tells something");
  }
  const std::vector<HarmonyParsed>& messages() const { return parser_.messages(); }
  const std::string& problem() const { return problem_; }

 private:
  void problem(const char* what) {
    if (problem_.empty()) problem_ = what;
  }

  void watch(const std::vector<HarmonyEvent>& events) {
    for (const HarmonyEvent& event : events) {
      if (event.message >= parser_.messages().size()) return problem("an event of a message that is not there");
      switch (event.kind) {
        case HarmonyEvent::Kind::kStarted:
          if (open_ || event.message != told_.size()) problem("a start out of order");
          told_.push_back(parser_.messages()[event.message].message);
          told_.back().content = {std::string()};
          open_ = true;
          break;
        case HarmonyEvent::Kind::kDelta:
          if (!open_ || event.message + 1 != told_.size()) return problem("a delta outside a message");
          if (event.delta.empty() || !valid_utf8(event.delta)) problem("an empty or broken delta");
          std::get<std::string>(told_.back().content.front()) += event.delta;
          break;
        case HarmonyEvent::Kind::kEnded:
          if (!open_ || event.message + 1 != told_.size()) return problem("an end outside a message");
          if (parser_.messages()[event.message].end == HarmonyEnd::kOpen) problem("an ended message is open");
          open_ = false;
          break;
      }
    }
  }

  void check_message(size_t i) {
    const HarmonyMessage& message = parser_.messages()[i].message;
    if (!same_header(message, told_[i])) problem("a header changed after its start");
    if (message.content.size() != 1 || parser_.messages()[i].text() != told_[i].text()) {
      problem("the deltas do not join to the content");
    }
    for (const std::string* name :
         {&message.author.name, &message.recipient, &message.channel, &message.content_type}) {
      if (!valid_utf8(*name)) problem("a header is not UTF-8");
      if (name->size() > 3 * kMaxHarmonyHeader) problem("a header is too long");
      if (name->find_first_of(" \t\r\n") != std::string::npos) problem("a header has white space");
    }
    if (message.constrained && message.content_type.empty()) problem("constrained to nothing");
  }

  HarmonyParser parser_;
  std::vector<HarmonyMessage> told_;
  bool open_ = false;
  std::string problem_;
};

enum class Cut { kAtoms, kBytes, kRandom, kJoined };

Watcher parse_cut(const Recipe& recipe, Cut cut) {
  Watcher watcher(recipe);
  uint32_t seed = recipe.cut_seed;
  std::string held;  // text not yet given
  const auto give = [&]() {
    std::string_view rest = held;
    while (!rest.empty()) {
      size_t size = rest.size();
      if (cut == Cut::kBytes) size = 1;
      if (cut == Cut::kRandom) {
        seed = seed * 1664525u + 1013904223u;
        size = std::min<size_t>(rest.size(), (seed >> 24) % 9);  // 0: an empty token
      }
      watcher.push(kText, rest.substr(0, size));
      rest.remove_prefix(size);
    }
    held.clear();
  };
  for (const Atom& atom : recipe.atoms) {
    if (atom.id == kText) {
      held += atom.text;
      if (cut == Cut::kAtoms) give();
    } else {
      give();
      watcher.push(atom.id, "ignored");
    }
  }
  give();
  watcher.finish();
  return watcher;
}

std::string describe(const HarmonyParsed& parsed) {
  const HarmonyMessage& m = parsed.message;
  return fmt::format("{}|{}|{}|{}|{}{}|{}|end {} bare {}", harmony_role_name(m.author.role), m.author.name, m.recipient,
                     m.channel, m.constrained ? "!" : "", m.content_type, m.text(), static_cast<int>(parsed.end),
                     parsed.bare);
}

std::string compare(const std::vector<HarmonyParsed>& a, const std::vector<HarmonyParsed>& b) {
  if (a.size() != b.size()) return fmt::format("{} messages against {}", a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    const bool same = same_header(a[i].message, b[i].message) && a[i].text() == b[i].text() && a[i].end == b[i].end &&
                      a[i].bare == b[i].bare;
    if (!same) return fmt::format("[{}] against [{}]", describe(a[i]), describe(b[i]));
  }
  return {};
}

// Messages that the library's format can say: it has no way to write to=all, and headers have a limit.
bool sayable(const HarmonyMessage& m) {
  return m.recipient != "all" &&
         m.author.name.size() + m.recipient.size() + m.channel.size() + m.content_type.size() < kMaxHarmonyHeader - 40;
}

std::string check_round_trip(const std::vector<HarmonyParsed>& parsed) {
  const HarmonyTokens ids = tokens();
  for (bool recipient_in_channel : {false, true}) {
    const HarmonyRenderOptions options{HarmonyDrop::kNone, recipient_in_channel};
    HarmonyParser parser(ids);
    std::vector<const HarmonyParsed*> expected;
    for (const HarmonyParsed& one : parsed) {
      if (!sayable(one.message)) continue;
      expected.push_back(&one);
      for (const HarmonyPiece& piece : render_harmony_message(one.message, false, options)) {
        parser.push(piece.special ? ids.id(*piece.special) : kText, piece.text);
      }
    }
    parser.finish();
    if (parser.messages().size() != expected.size()) return "rendering and parsing changes the number of messages";
    for (size_t i = 0; i < expected.size(); ++i) {
      const HarmonyMessage& again = parser.messages()[i].message;
      if (!same_header(expected[i]->message, again) || expected[i]->text() != again.text()) {
        return fmt::format("rendered and parsed: [{}] became [{}]", describe(*expected[i]),
                           describe(parser.messages()[i]));
      }
    }
  }
  return {};
}

}  // namespace

std::string check_harmony_stream(std::string_view data) {
  const Recipe recipe = read_recipe(data);
  const Watcher whole = parse_cut(recipe, Cut::kAtoms);
  if (!whole.problem().empty()) return whole.problem();
  for (Cut cut : {Cut::kBytes, Cut::kRandom, Cut::kJoined}) {
    const Watcher other = parse_cut(recipe, cut);
    if (!other.problem().empty()) return other.problem();
    std::string difference = compare(whole.messages(), other.messages());
    if (!difference.empty()) return "the cut changes the result: " + difference;
  }
  return check_round_trip(whole.messages());
}

}  // namespace tessera
