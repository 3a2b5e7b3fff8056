// Whatever tokens a model emits, every API's response is well formed, streamed or not, and both say the same.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <random>

#include "server/chat_format.h"
#include "server/messages_format.h"
#include "server/responses_format.h"
#include "text/utf8_lossy.h"

namespace tessera::server {
namespace {

const Tokenizer& tokenizer() {
  static const Tokenizer kTokenizer = Tokenizer::from_file(TESSERA_SOURCE_DIR "/models/glossary/tokenizer.json");
  return kTokenizer;
}

// Special tokens, header words and text, in any order.
std::vector<int32_t> random_answer(std::mt19937& random) {
  static const std::vector<int32_t> kWords = [] {
    std::vector<int32_t> words;
    for (const char* text : {"<|start|>",  "<|end|>",     "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>",
                             "<|call|>",   "<|channel|>", "<|message|>", "assistant",   "analysis",      "final",
                             "commentary", " to=",        "functions",   ".f",          " json",         "{\"a\":",
                             "1}",         "user",        "\n\n",        " stop"}) {
      for (int32_t id : tokenizer().encode(text)) words.push_back(id);
    }
    return words;
  }();
  std::vector<int32_t> ids;
  for (size_t n = random() % 40; n > 0; --n) {
    ids.push_back(random() % 3 != 0 ? kWords[random() % kWords.size()]
                                    : static_cast<int32_t>(random() % static_cast<uint32_t>(tokenizer().vocab_size())));
  }
  return ids;
}

// Runs one answer through a formatter, as a job does.
std::string run(Formatter& formatter, const std::vector<int32_t>& ids, const AnswerRules& rules) {
  AnswerStream stream(tokenizer(), rules);
  std::string out;
  std::vector<AnswerPiece> pieces;
  auto give = [&] {
    for (AnswerPiece& piece : pieces) formatter.piece(0, piece, out);
    pieces.clear();
  };
  formatter.open(out);
  RequestResult result{.prompt_tokens = 3};
  for (int32_t id : ids) {
    ++result.completion_tokens;
    const bool wanted = stream.push(id, nullptr, pieces);
    give();
    if (!wanted) break;
  }
  const AnswerEnd end = stream.finish(result, pieces);
  give();
  formatter.end(0, end, out);
  formatter.close(out);
  return out;
}

// The data of a stream's events; fails on anything else in it.
std::vector<OrderedJson> events(const std::string& stream) {
  std::vector<OrderedJson> out;
  for (size_t at = 0; at < stream.size();) {
    const size_t end = stream.find("\n\n", at);
    if (end == std::string::npos) return ADD_FAILURE() << "no end of event: " << stream.substr(at), out;
    std::string event = stream.substr(at, end - at);
    at = end + 2;
    if (event == "data: [DONE]") continue;
    if (event.starts_with("event: ")) event.erase(0, event.find('\n') + 1);
    EXPECT_TRUE(event.starts_with("data: ")) << event;
    EXPECT_EQ(event.find('\n'), std::string::npos) << event;
    out.push_back(OrderedJson::parse(event.substr(6), nullptr, false));
    EXPECT_TRUE(out.back().is_object()) << event;
  }
  return out;
}

void check_chat(const std::vector<int32_t>& ids, const AnswerRules& rules) {
  auto whole = make_chat_formatter({.model = "m"}), streamed = make_chat_formatter({.model = "m", .stream = true});
  run(*whole, ids, rules);
  const OrderedJson body = OrderedJson::parse(whole->body());
  const OrderedJson& message = body["choices"][0]["message"];
  std::string content, reasoning, finish;
  OrderedJson calls = OrderedJson::array();
  for (const OrderedJson& event : events(run(*streamed, ids, rules))) {
    const OrderedJson& delta = event["choices"][0]["delta"];
    content += delta.value("content", "");
    reasoning += delta.value("reasoning_content", "");
    for (const OrderedJson& call : delta.value("tool_calls", OrderedJson::array())) {
      const auto index = call["index"].get<size_t>();
      ASSERT_LE(index, calls.size());
      if (index == calls.size()) calls.push_back({{"name", call["function"]["name"]}, {"arguments", ""}});
      calls[index]["arguments"] =
          calls[index]["arguments"].get<std::string>() + call["function"]["arguments"].get<std::string>();
    }
    if (event["choices"][0]["finish_reason"].is_string()) finish = event["choices"][0]["finish_reason"];
  }
  EXPECT_EQ(message["content"].is_null() ? "" : message["content"].get<std::string>(), content);
  EXPECT_EQ(message.value("reasoning_content", ""), reasoning);
  EXPECT_EQ(body["choices"][0]["finish_reason"], finish);
  const OrderedJson whole_calls = message.value("tool_calls", OrderedJson::array());
  ASSERT_EQ(whole_calls.size(), calls.size());
  for (size_t i = 0; i < calls.size(); ++i) {
    EXPECT_EQ(whole_calls[i]["function"]["name"], calls[i]["name"]);
    EXPECT_EQ(whole_calls[i]["function"]["arguments"], calls[i]["arguments"]);
    EXPECT_NE(calls[i]["name"], "");
  }
  EXPECT_TRUE(finish == "stop" || (finish == "tool_calls" && !calls.empty())) << finish;
  EXPECT_EQ(utf8_lossy(content), content);
  for (const std::string& stop : rules.stop) EXPECT_EQ(content.find(stop), std::string::npos);
}

void check_responses(ServerState& state, const std::vector<int32_t>& ids, const AnswerRules& rules) {
  const OrderedJson request = {{"model", "m"}}, none = OrderedJson::array();
  auto whole = make_responses_formatter({.state = state, .request = request, .messages = none});
  auto streamed = make_responses_formatter({.state = state, .request = request, .messages = none, .stream = true});
  run(*whole, ids, rules);
  const OrderedJson body = OrderedJson::parse(whole->body());
  const std::vector<OrderedJson> told = events(run(*streamed, ids, rules));
  OrderedJson done = OrderedJson::array();
  for (size_t i = 0; i < told.size(); ++i) {
    ASSERT_EQ(told[i]["sequence_number"], i);
    if (told[i]["type"] == "response.output_item.done") done.push_back(told[i]["item"]);
  }
  ASSERT_EQ(told.back()["type"], "response.completed");
  EXPECT_EQ(told.back()["response"]["output"], done);
  auto strip = [](OrderedJson output) {  // ids are random
    for (OrderedJson& item : output) item.erase("id"), item.erase("call_id");
    return output;
  };
  EXPECT_EQ(strip(body["output"]), strip(done));
  EXPECT_TRUE(OrderedJson::parse(state.responses.get(body["id"])->messages).is_array());
}

void check_messages(const std::vector<int32_t>& ids, const AnswerRules& rules) {
  auto whole = make_messages_formatter({.model = "m"}),
       streamed = make_messages_formatter({.model = "m", .stream = true});
  run(*whole, ids, rules);
  const OrderedJson body = OrderedJson::parse(whole->body());
  size_t open = 0, closed = 0;
  std::string text;
  for (const OrderedJson& event : events(run(*streamed, ids, rules))) {
    open += event["type"] == "content_block_start";
    closed += event["type"] == "content_block_stop";
    if (event["type"] == "content_block_delta") {
      EXPECT_EQ(open, closed + 1);
      EXPECT_EQ(event["index"], closed);
      text += event["delta"].value("text", "");
    }
  }
  EXPECT_EQ(open, closed);
  EXPECT_EQ(body["content"].size(), closed);
  std::string expected;
  for (const OrderedJson& block : body["content"]) {
    if (block["type"] == "text") expected += block["text"].get<std::string>();
    if (block["type"] == "tool_use") EXPECT_TRUE(block["input"].is_object());
  }
  EXPECT_EQ(text, expected);
}

// TESSERA_FORCED_STREAMS: how many.
TEST(Format, RandomAnswersAreWellFormed) {
  const char* given = std::getenv("TESSERA_FORCED_STREAMS");
  const int rounds = given ? std::atoi(given) : 10000;
  std::mt19937 random(11);
  ServerState state({});
  for (int round = 0; round < rounds; ++round) {
    const std::vector<int32_t> ids = random_answer(random);
    AnswerRules rules{.chat = true, .one_call = random() % 4 == 0};
    if (random() % 4 == 0) rules.stop = {" stop", "1}"};
    check_chat(ids, rules);
    check_responses(state, ids, rules);
    check_messages(ids, rules);
    if (HasFailure()) {
      std::string text;
      for (int32_t id : ids) text += tokenizer().id_to_token(id) + " ";
      FAIL() << "round " << round << ": " << text;
    }
  }
}

}  // namespace
}  // namespace tessera::server
