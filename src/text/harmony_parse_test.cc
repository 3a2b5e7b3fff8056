#include "text/harmony_parse.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "text/harmony_json.h"

namespace tessera {
namespace {

using testing::ElementsAre;

constexpr int32_t kText = 1000;
constexpr int32_t kEos = 99;
constexpr std::string_view kEosText = "<|endoftext|>";

HarmonyTokens test_tokens() {
  HarmonyTokens tokens;
  for (int i = 0; i < kHarmonySpecials; ++i) tokens.ids[i] = 200 + i;
  tokens.eos = {kEos};
  return tokens;
}

struct Token {
  int32_t id;
  std::string bytes;
};

// A stream written with its special tokens spelled out.
std::vector<Token> read(std::string_view text) {
  std::vector<Token> out;
  while (!text.empty()) {
    size_t best = text.size();
    Token special{kText, ""};
    for (int i = 0; i <= kHarmonySpecials; ++i) {
      const std::string_view name =
          i == kHarmonySpecials ? kEosText : harmony_special_text(static_cast<HarmonySpecial>(i));
      const size_t at = text.find(name);
      if (at < best) {
        best = at;
        special = {i == kHarmonySpecials ? kEos : 200 + i, std::string(name)};
      }
    }
    if (best > 0) out.push_back({kText, std::string(text.substr(0, best))});
    text.remove_prefix(best + special.bytes.size());
    if (special.id != kText) out.push_back(std::move(special));
  }
  return out;
}

// role[:name] > recipient # channel [type] "content" end; parts that are not there are left out.
std::string show(const HarmonyParsed& parsed) {
  const HarmonyMessage& m = parsed.message;
  std::string out(harmony_role_name(m.author.role));
  if (!m.author.name.empty()) out += ":" + m.author.name;
  if (!m.recipient.empty()) out += " >" + m.recipient;
  if (!m.channel.empty()) out += " #" + m.channel;
  if (!m.content_type.empty()) out += std::string(" [") + (m.constrained ? "!" : "") + m.content_type + "]";
  static constexpr const char* kEnds[] = {"open", "end", "return", "call", "cut"};
  return out + " \"" + m.text() + "\" " + (parsed.bare ? "bare " : "") + kEnds[static_cast<int>(parsed.end)];
}

std::vector<std::string> parse(std::string_view text, std::optional<HarmonyRole> role = HarmonyRole::kAssistant) {
  HarmonyParser parser(test_tokens(), role);
  for (const Token& token : read(text)) parser.push(token.id, token.bytes);
  parser.finish();
  std::vector<std::string> out;
  for (const HarmonyParsed& message : parser.messages()) out.push_back(show(message));
  return out;
}

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

std::string data_file(const std::string& name) {
  return read_text_file(std::string(TESSERA_TEST_DATA) + "/harmony/" + name);
}

TEST(HarmonyParse, ReadsTheFixturesIds) {
  const OrderedJson table = OrderedJson::parse(data_file("token_bytes.json"));
  HarmonyTokens tokens;
  const int32_t ids[] = {200006, 200007, 200008, 200005, 200003, 200002, 200012};
  std::copy(std::begin(ids), std::end(ids), tokens.ids);
  const auto parse_file = [&](const std::string& name) {
    std::istringstream file(data_file(name));
    HarmonyParser parser(tokens, HarmonyRole::kAssistant);
    for (int32_t id = 0; file >> id;) {
      const auto it = table.find(std::to_string(id));
      parser.push(id, it == table.end() ? "" : from_hex(it->get<std::string>()));
    }
    parser.finish();
    std::vector<std::string> out;
    for (const HarmonyParsed& message : parser.messages()) out.push_back(show(message));
    return out;
  };
  EXPECT_THAT(
      parse_file("test_simple_reasoning_response.txt"),
      ElementsAre("assistant #analysis \"User asks: \"What is 2 + 2?\" Simple arithmetic. Provide answer.\" return",
                  "assistant #final \"2 + 2 = 4.\" cut"));
  EXPECT_THAT(parse_file("test_simple_tool_call.txt"),
              ElementsAre("assistant #analysis \"User asks: \"What is the weather in Tokyo?\" We need to use "
                          "lookup_weather tool.\" return",
                          "assistant >lookup_weather #analysis [code] \"{\"location\": \"Tokyo\"}\" cut"));
}

// Generated well-formed streams, with the messages that the openai-harmony wheel reads from them.
TEST(HarmonyParse, MatchesTheLibraryOnWellFormedStreams) {
  const OrderedJson cases = OrderedJson::parse(data_file("parse_cases.json"));
  ASSERT_GE(cases.size(), 150u);
  for (size_t i = 0; i < cases.size(); ++i) {
    const OrderedJson& one = cases[i];
    std::optional<HarmonyRole> role;
    if (one["role"].is_string()) role = harmony_role(one["role"].get<std::string>());
    HarmonyParser parser(test_tokens(), role);
    for (const OrderedJson& token : one["tokens"]) {
      const std::string text = token.get<std::string>();
      const std::vector<Token> special = read(text);
      const bool is_special = special.size() == 1 && special[0].id != kText;
      parser.push(is_special ? special[0].id : kText, is_special ? "" : from_hex(text));
    }
    parser.finish();
    OrderedJson messages = OrderedJson::array();
    for (const HarmonyParsed& parsed : parser.messages()) {
      const OrderedJson json = harmony_to_json(parsed.message);
      OrderedJson simple;
      for (const char* key : {"role", "name", "channel", "recipient", "content_type"}) {
        if (json.contains(key)) simple[key] = json[key];
      }
      simple["content"] = parsed.text();
      messages.push_back(std::move(simple));
    }
    ASSERT_EQ(messages, one["messages"]) << "case " << i;
  }
}

TEST(HarmonyParse, HeaderSpellings) {
  const std::string expected = "assistant >functions.f #commentary [!json] \"{}\" call";
  for (const char* header : {"<|channel|>commentary to=functions.f <|constrain|>json",
                             "<|channel|>commentary to=functions.f<|constrain|>json",
                             " to=functions.f<|channel|>commentary <|constrain|>json",
                             " to=functions.f<|channel|>commentary<|constrain|>json",
                             "<|channel|> commentary  to=functions.f  <|constrain|> json",
                             "<|channel|>commentary functions.f <|constrain|>json",
                             "assistant<|channel|>commentary to=functions.f <|constrain|>json"}) {
    EXPECT_THAT(parse(std::string(header) + "<|message|>{}<|call|>"), ElementsAre(expected)) << header;
  }
  EXPECT_THAT(parse(" to=functions.f<|channel|>commentary json<|message|>{}<|call|>"),
              ElementsAre("assistant >functions.f #commentary [json] \"{}\" call"));
  EXPECT_THAT(parse("<|channel|>commentary functions.f code<|message|>x<|call|>"),
              ElementsAre("assistant >functions.f #commentary [code] \"x\" call"));
  EXPECT_THAT(parse("<|channel|>analysis to=python code<|message|>x<|call|>"),
              ElementsAre("assistant >python #analysis [code] \"x\" call"));
  EXPECT_THAT(parse("<|channel|>final <|constrain|>json<|message|>{}<|return|>"),
              ElementsAre("assistant #final [!json] \"{}\" return"));
  EXPECT_THAT(parse("<|channel|>final json<|message|>{}<|return|>"),
              ElementsAre("assistant #final [json] \"{}\" return"));
  EXPECT_THAT(parse("<|channel|>commentary python<|message|>x<|call|>"),
              ElementsAre("assistant >python #commentary \"x\" call"));
  EXPECT_THAT(parse("<|start|>functions.f to=assistant<|channel|>commentary<|message|>18<|end|>"
                    "<|start|>functions.f<|message|>18<|end|><|start|>user:bob<|message|>hi<|end|>",
                    std::nullopt),
              ElementsAre("tool:functions.f >assistant #commentary \"18\" end", "tool:functions.f \"18\" end",
                          "user:bob \"hi\" end"));
}

TEST(HarmonyParse, BrokenHeaders) {
  // As gpt-oss models were reported to write them.
  EXPECT_THAT(parse("<|channel|>commentary... The user asks: did they win?<|end|>"
                    "<|start|>assistant<|channel|>final<|message|>No.<|return|>"),
              ElementsAre("assistant #commentary \"... The user asks: did they win?\" bare end",
                          "assistant #final \"No.\" return"));
  EXPECT_THAT(parse("<|channel|>commentary 2? The request is ambiguous.<|end|>"),
              ElementsAre("assistant #commentary \"2? The request is ambiguous.\" bare end"));
  EXPECT_THAT(parse("<|channel|>commentary?commentary?We need it.<|end|>"),
              ElementsAre("assistant #commentary \"?commentary?We need it.\" bare end"));
  EXPECT_THAT(parse("<|channel|>commentary to=assistant<|channel|>commentary?<|message|>x<|end|>"),
              ElementsAre("assistant >assistant #commentary \"x\" end"));
  EXPECT_THAT(parse("<|channel|>bash<|channel|>commentary to=functions.bash code<|message|>ls<|call|>"),
              ElementsAre("assistant >functions.bash #commentary [code] \"ls\" call"));
  EXPECT_THAT(parse("<|channel|>?? The user asks<|end|>"),
              ElementsAre("assistant #analysis \"?? The user asks\" bare end"));
  EXPECT_THAT(parse("<|channel|><|channel|>analysis<|message|>a<|end|>"), ElementsAre("assistant #analysis \"a\" end"));
  EXPECT_THAT(parse("<|channel|>analysis<|channel|>final<|message|>a<|end|>"),
              ElementsAre("assistant #final \"a\" end"));
  EXPECT_THAT(parse("<|channel|>final<|channel|>notes<|message|>a<|end|>"), ElementsAre("assistant #final \"a\" end"));
  EXPECT_THAT(parse("<|channel|>notes<|channel|>more<|message|>a<|end|>"), ElementsAre("assistant #more \"a\" end"));
  EXPECT_THAT(parse("<|channel|><|message|>a<|end|>"), ElementsAre("assistant \"a\" end"));
  EXPECT_THAT(parse("<|channel|>commentary to=functions.f 彩票 json<|message|>{}<|call|>"),
              ElementsAre("assistant >functions.f #commentary [json] \"{}\" call"));
  EXPECT_THAT(parse("<|channel|>commentary to=functions.f <|constrain|>We should look first<|message|>{}<|call|>"),
              ElementsAre("assistant >functions.f #commentary [first] \"{}\" call"));
  EXPECT_THAT(parse("<|constrain|>commentary to=functions.f<|message|>{}<|call|>"),
              ElementsAre("assistant >functions.f #commentary \"{}\" call"));
  EXPECT_THAT(parse("<|start|><|start|>assistantassistant<|channel|>final<|message|>a<|end|>"
                    "<|start|>assistantfinal<|message|>b<|end|><|start|>final<|message|>c<|end|>"
                    "<|start|><|message|>d<|end|>",
                    std::nullopt),
              ElementsAre("assistant #final \"a\" end", "assistant #final \"b\" end", "assistant #final \"c\" end",
                          "assistant \"d\" end"));
  EXPECT_THAT(parse("finalto=functions.f<|message|>"), ElementsAre("assistant \"\" cut"));
  EXPECT_THAT(parse("<|channel|>finalto=functions.f<|message|>"),
              ElementsAre("assistant >functions.f #final \"\" cut"));
}

TEST(HarmonyParse, MissingMessageToken) {
  EXPECT_THAT(parse("I must refuse<|end|><|start|>assistant<|channel|>analysis<|message|>We<|end|>"),
              ElementsAre("assistant \"I must refuse\" bare end", "assistant #analysis \"We\" end"));
  EXPECT_THAT(parse("<|channel|>analysis I must refuse<|end|>"),
              ElementsAre("assistant #analysis \"I must refuse\" bare end"));
  EXPECT_THAT(parse("<|channel|>commentary to=functions.f json {\"a\": 1}<|call|>"),
              ElementsAre("assistant >functions.f #commentary [json] \"{\"a\": 1}\" bare call"));
  EXPECT_THAT(parse("<|channel|>commentary to=functions.f<|constrain|>json{\"a\": 1}<|call|>"),
              ElementsAre("assistant >functions.f #commentary [!json] \"{\"a\": 1}\" bare call"));
  EXPECT_THAT(parse(" to=functions.f{\"a\": 1}"), ElementsAre("assistant >functions.f \"{\"a\": 1}\" bare cut"));
  EXPECT_THAT(parse("We should think about it<|channel|>final<|message|>Yes<|return|>"),
              ElementsAre("assistant \"We should think about it\" bare cut", "assistant #final \"Yes\" return"));
  EXPECT_THAT(parse("<|start|>assistantWell then<|end|><|start|>assistant Well<|end|><|start|>Hello there<|end|>",
                    std::nullopt),
              ElementsAre("assistant \"Well then\" bare end", "assistant \"Well\" bare end",
                          "assistant \"Hello there\" bare end"));
  // A header that says nothing but who speaks is no message; one with a channel is.
  EXPECT_THAT(parse("<|return|><|start|>assistant<|end|><|start|>user<|end|> \n<|end|><|end|>"), ElementsAre());
  EXPECT_THAT(parse("<|channel|>final<|return|>"), ElementsAre("assistant #final \"\" bare return"));
}

TEST(HarmonyParse, SpecialTokensWhereTheyDoNotBelong) {
  EXPECT_THAT(parse("<|channel|>analysis<|message|>a<|message|>b<|constrain|>c<|end|>"),
              ElementsAre("assistant #analysis \"abc\" end"));
  EXPECT_THAT(parse("<|channel|>analysis<|message|>thinking<|channel|>final<|message|>Yes<|return|>"),
              ElementsAre("assistant #analysis \"thinking\" cut", "assistant #final \"Yes\" return"));
  EXPECT_THAT(parse("<|start|>user:bob<|message|>a<|channel|>x<|message|>b", std::nullopt),
              ElementsAre("user:bob \"a\" cut", "user:bob #x \"b\" cut"));
  EXPECT_THAT(parse("<|channel|>final<|message|>a<|start|>assistant<|channel|>final<|message|>b"),
              ElementsAre("assistant #final \"a\" cut", "assistant #final \"b\" cut"));
  EXPECT_THAT(parse("<|channel|>final<|message|>a<|endoftext|><|endoftext|>"),
              ElementsAre("assistant #final \"a\" cut"));
  EXPECT_THAT(parse("<|channel|>final<|endoftext|>"), ElementsAre("assistant #final \"\" bare cut"));
  EXPECT_THAT(
      parse("<|channel|>analysis<|message|>a<|end|> 364 <|start|>assistant<|channel|>final<|message|>b<|return|>"),
      ElementsAre("assistant #analysis \"a\" end", "assistant \"364 \" bare cut", "assistant #final \"b\" return"));
  EXPECT_THAT(parse("<|channel|>analysis<|message|>a<|end|>assistant<|channel|>final<|message|>b<|return|>"),
              ElementsAre("assistant #analysis \"a\" end", "assistant #final \"b\" return"));
  EXPECT_THAT(parse("<|message|>a<|call|><|message|>b<|return|><|message|>c<|end|>", std::nullopt),
              ElementsAre("assistant \"a\" call", "assistant \"b\" return", "assistant \"c\" end"));
  EXPECT_THAT(parse("", std::nullopt), ElementsAre());
}

TEST(HarmonyParse, HeadersAreBounded) {
  const std::string prose = "I " + std::string(kMaxHarmonyHeader, 'x') + " really";
  EXPECT_THAT(parse(prose + "<|message|> go on<|end|>"), ElementsAre("assistant \"" + prose + " go on\" bare end"));
  const std::string name(kMaxHarmonyHeader + 40, 'n');
  EXPECT_THAT(parse("<|channel|>" + name + "<|end|>"), ElementsAre("assistant #" + name.substr(0, kMaxHarmonyHeader) +
                                                                   " \"" + std::string(40, 'n') + "\" bare end"));
  EXPECT_THAT(parse(std::string(10 * kMaxHarmonyHeader, ' ') + "<|channel|>final<|message|>a<|end|>"),
              ElementsAre("assistant #final \"a\" end"));
  std::string marks;
  for (int i = 0; i < 1000; ++i) marks += i % 2 == 0 ? "<|channel|>" : "<|constrain|>";
  EXPECT_THAT(parse(marks + "<|channel|>final<|message|>a<|end|>"), ElementsAre("assistant #final \"a\" end"));
}

TEST(HarmonyParse, StreamsWholeCharacters) {
  HarmonyParser parser(test_tokens(), HarmonyRole::kAssistant);
  using Kind = HarmonyEvent::Kind;
  const auto kinds = [](const std::vector<HarmonyEvent>& events) {
    std::vector<std::pair<Kind, std::string>> out;
    for (const HarmonyEvent& event : events) out.emplace_back(event.kind, event.delta);
    return out;
  };
  const auto special = [&](HarmonySpecial s) { return kinds(parser.push(test_tokens().id(s), "")); };
  using Event = std::pair<Kind, std::string>;
  EXPECT_THAT(special(HarmonySpecial::kChannel), ElementsAre());
  EXPECT_THAT(kinds(parser.push(kText, "final")), ElementsAre());
  EXPECT_EQ(parser.current(), nullptr);
  EXPECT_THAT(special(HarmonySpecial::kMessage), ElementsAre(Event{Kind::kStarted, ""}));
  ASSERT_NE(parser.current(), nullptr);
  EXPECT_EQ(parser.current()->message.channel, "final");
  EXPECT_THAT(kinds(parser.push(kText, "a\xF0\x9F")), ElementsAre(Event{Kind::kDelta, "a"}));
  EXPECT_THAT(kinds(parser.push(kText, "\x99")), ElementsAre());
  EXPECT_THAT(kinds(parser.push(kText, "\x82!")), ElementsAre(Event{Kind::kDelta, "🙂!"}));
  EXPECT_THAT(kinds(parser.push(kText, "")), ElementsAre());
  EXPECT_THAT(kinds(parser.push(kText, "\xE6")), ElementsAre());
  EXPECT_EQ(parser.current()->text(), "a🙂!");
  EXPECT_THAT(special(HarmonySpecial::kReturn),
              ElementsAre(Event{Kind::kDelta, "\xEF\xBF\xBD"}, Event{Kind::kEnded, ""}));
  EXPECT_EQ(parser.current(), nullptr);
  EXPECT_THAT(kinds(parser.finish()), ElementsAre());
  // A bare message is told at its end, all at once.
  EXPECT_THAT(kinds(parser.push(kText, "Hello there")), ElementsAre());
  EXPECT_THAT(kinds(parser.finish()),
              ElementsAre(Event{Kind::kStarted, ""}, Event{Kind::kDelta, "Hello there"}, Event{Kind::kEnded, ""}));
}

TEST(HarmonyParse, RolesOfThePrompt) {
  EXPECT_THAT(parse("<|message|>hi<|end|>", HarmonyRole::kUser), ElementsAre("user \"hi\" end"));
  EXPECT_THAT(parse("<|message|>hi<|end|>", HarmonyRole::kTool), ElementsAre("tool:tool \"hi\" end"));
  const std::vector<HarmonyParsed> all = parse_harmony(
      {200, 1, 202, 2, 201}, [](int32_t id) { return std::string_view(id == 1 ? "user" : "hi"); }, test_tokens());
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(show(all[0]), "user \"hi\" end");
}

}  // namespace
}  // namespace tessera
