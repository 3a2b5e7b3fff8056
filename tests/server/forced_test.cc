// The whole way from the engine to a client's socket, for answers that are decided beforehand: a constraint forces the
// model, a tiny random one, to say given tokens. Whatever they are, each API's response is well formed, a stream says
// what the whole response says, and harmony's fixtures arrive as they are meant and can be sent back.
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <cstdlib>
#include <random>
#include <sstream>

#include "server/scripted_server.h"
#include "text/harmony_parse.h"

namespace tessera::server {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;

std::string data_file(const std::string& name) {
  return read_text_file(std::string(TESSERA_TEST_DATA) + "/harmony/" + name);
}

class Forced : public ScriptedServerTest {};

// One connection that stays open.
class Client {
 public:
  explicit Client(uint16_t port) { socket_.connect({asio::ip::address_v4::loopback(), port}); }

  std::string post(const std::string& path, const OrderedJson& body) {
    http::request<http::string_body> request{http::verb::post, path, 11};
    request.set(http::field::host, "localhost");
    request.body() = body.dump();
    request.prepare_payload();
    http::write(socket_, request);
    http::response<http::string_body> response;
    http::read(socket_, buffer_, response);
    EXPECT_EQ(response.result_int(), 200u) << path << " " << response.body();
    return response.body();
  }
  OrderedJson post_json(const std::string& path, const OrderedJson& body) {
    return OrderedJson::parse(post(path, body), nullptr, /*allow_exceptions=*/false);
  }

 private:
  asio::io_context io_;
  asio::ip::tcp::socket socket_{io_};
  boost::beast::flat_buffer buffer_;
};

// The data of a stream's events, and whether [DONE] came last.
std::vector<OrderedJson> events(const std::string& stream, bool* done = nullptr) {
  std::vector<OrderedJson> out;
  std::istringstream lines(stream);
  bool ended = false;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("data: ")) continue;
    EXPECT_FALSE(ended) << "an event after [DONE]";
    if (line == "data: [DONE]") {
      ended = true;
      continue;
    }
    out.push_back(OrderedJson::parse(line.substr(6), nullptr, false));
    EXPECT_TRUE(out.back().is_object()) << line;
  }
  if (done) *done = ended;
  return out;
}

std::string text_or_empty(const OrderedJson& object, const char* key) {
  return object.contains(key) && object[key].is_string() ? object[key].get<std::string>() : "";
}

OrderedJson chat_body(size_t script, bool ignore_eos, bool stream) {
  return {{"messages", {{{"role", "user"}, {"content", "hi"}}}},
          {"seed", script},
          {"ignore_eos", ignore_eos},
          {"stream", stream}};
}

void check_chat(Client& client, size_t script, bool ignore_eos) {
  const std::string path = "/v1/chat/completions";
  const OrderedJson whole = client.post_json(path, chat_body(script, ignore_eos, false));
  ASSERT_TRUE(whole.is_object());
  const OrderedJson& message = whole["choices"][0]["message"];
  bool done = false;
  std::string content, reasoning, finish;
  std::vector<std::pair<std::string, std::string>> calls;
  for (const OrderedJson& event : events(client.post(path, chat_body(script, ignore_eos, true)), &done)) {
    ASSERT_EQ(event["choices"].size(), 1u) << event;
    const OrderedJson& choice = event["choices"][0];
    const OrderedJson& delta = choice["delta"];
    content += text_or_empty(delta, "content");
    reasoning += text_or_empty(delta, "reasoning_content");
    for (const OrderedJson& call : delta.value("tool_calls", OrderedJson::array())) {
      const auto index = call["index"].get<size_t>();
      ASSERT_LE(index, calls.size());
      if (index == calls.size()) calls.emplace_back(call["function"]["name"], "");
      calls[index].second += text_or_empty(call["function"], "arguments");
    }
    if (choice["finish_reason"].is_string()) finish += choice["finish_reason"].get<std::string>();
  }
  EXPECT_TRUE(done);
  EXPECT_EQ(text_or_empty(message, "content"), content);
  EXPECT_EQ(text_or_empty(message, "reasoning_content"), reasoning);
  EXPECT_EQ(whole["choices"][0]["finish_reason"], finish);
  EXPECT_EQ(finish, calls.empty() ? "stop" : "tool_calls");
  const OrderedJson told = message.value("tool_calls", OrderedJson::array());
  ASSERT_EQ(told.size(), calls.size());
  for (size_t i = 0; i < calls.size(); ++i) {
    EXPECT_NE(calls[i].first, "");
    EXPECT_EQ(told[i]["function"]["name"], calls[i].first);
    EXPECT_EQ(told[i]["function"]["arguments"], calls[i].second);
  }
}

void check_responses(Client& client, size_t script, bool ignore_eos) {
  OrderedJson body = {{"input", "hi"}, {"seed", script}, {"ignore_eos", ignore_eos}};
  const OrderedJson whole = client.post_json("/v1/responses", body);
  ASSERT_EQ(whole["status"], "completed") << whole;
  body["stream"] = true;
  OrderedJson last;
  std::string text, told;
  size_t number = 0;
  for (const OrderedJson& event : events(client.post("/v1/responses", body))) {
    ASSERT_EQ(event["sequence_number"], number++);
    if (event["type"] == "response.output_text.delta") text += event["delta"].get<std::string>();
    last = event;
  }
  ASSERT_EQ(last["type"], "response.completed");
  auto strip = [](OrderedJson output) {  // ids are random
    for (OrderedJson& item : output) item.erase("id"), item.erase("call_id");
    return output;
  };
  EXPECT_EQ(strip(whole["output"]), strip(last["response"]["output"]));
  for (const OrderedJson& item : whole["output"])
    if (item["type"] == "message") told += item["content"][0]["text"].get<std::string>();
  EXPECT_EQ(text, told);
}

void check_messages(Client& client, size_t script) {
  OrderedJson body = {
      {"messages", {{{"role", "user"}, {"content", "hi"}}}}, {"max_tokens", 3000}, {"top_k", script + 1}};
  const OrderedJson whole = client.post_json("/v1/messages", body);
  ASSERT_EQ(whole["type"], "message") << whole;
  body["stream"] = true;
  size_t open = 0, closed = 0;
  std::string last, text, told;
  for (const OrderedJson& event : events(client.post("/v1/messages", body))) {
    last = event["type"];
    open += last == "content_block_start";
    closed += last == "content_block_stop";
    ASSERT_LE(open, closed + 1);
    if (last == "content_block_delta") text += text_or_empty(event["delta"], "text");
  }
  EXPECT_EQ(last, "message_stop");
  EXPECT_EQ(open, closed);
  EXPECT_EQ(whole["content"].size(), closed);
  for (const OrderedJson& block : whole["content"]) {
    if (block["type"] == "text") told += block["text"].get<std::string>();
    EXPECT_TRUE(block["type"] != "tool_use" || block["input"].is_object());
  }
  EXPECT_EQ(text, told);
}

// A case of the fixtures in this tokenizer's ids: special tokens as such, all else by its bytes.
Script script_of(const OrderedJson& tokens) {
  Script out;
  std::string text;
  auto flush = [&] {
    if (!text.empty())
      for (int32_t id : tokenizer().encode(text, {.parse_special = false})) out.push_back(id);
    text.clear();
  };
  for (const OrderedJson& token : tokens) {
    const auto spelled = token.get<std::string>();
    if (spelled.starts_with("<|")) {
      flush();
      out.push_back(special(spelled.c_str()));
    } else {
      for (size_t i = 0; i + 1 < spelled.size(); i += 2)
        text += static_cast<char>(std::stoi(spelled.substr(i, 2), nullptr, 16));
    }
  }
  flush();
  return out;
}

// Those that begin as an answer does, after <|start|>assistant.
std::vector<OrderedJson> answer_cases() {
  std::vector<OrderedJson> out;
  for (const OrderedJson& one : OrderedJson::parse(data_file("parse_cases.json")))
    if (one["role"] == "assistant") out.push_back(one);
  return out;
}

// Random tokens, random pieces of harmony, fixtures with tokens changed, lost and doubled.
Script hostile_script(std::mt19937& random, const std::vector<Script>& fixtures) {
  static const Script kWords = [] {
    Script words;
    for (const char* text : {"<|start|>",
                             "<|end|>",
                             "<|message|>",
                             "<|channel|>",
                             "<|constrain|>",
                             "<|return|>",
                             "<|call|>",
                             "<|endoftext|>",
                             "<|channel|>",
                             "<|message|>",
                             "assistant",
                             "analysis",
                             "final",
                             "commentary",
                             " to=",
                             "functions",
                             ".f",
                             " json",
                             "{\"a\":",
                             "1}",
                             "user",
                             "\n\n",
                             "\xf0\x9f\x91\xa9\xe2\x80\x8d"})
      for (int32_t id : tokenizer().encode(text)) words.push_back(id);
    return words;
  }();
  auto any = [&] { return static_cast<int32_t>(random() % static_cast<uint32_t>(tokenizer().vocab_size())); };
  Script out;
  if (random() % 3 == 0) {
    out = fixtures[random() % fixtures.size()];
    if (out.size() > 60) out.resize(60);
    for (size_t n = random() % 4; n > 0 && !out.empty(); --n) {
      const auto at = out.begin() + static_cast<long>(random() % out.size());
      if (const uint32_t kind = random() % 3; kind == 0) {
        *at = random() % 2 ? any() : kWords[random() % kWords.size()];
      } else if (kind == 1) {
        out.erase(at);
      } else {
        out.insert(at, *at);
      }
    }
    return out;
  }
  for (size_t n = random() % 40; n > 0; --n) out.push_back(random() % 3 ? kWords[random() % kWords.size()] : any());
  return out;
}

// TESSERA_FORCED_STREAMS: how many; each is asked for whole and streamed.
TEST_F(Forced, HostileStreamsGiveWellFormedResponses) {
  const char* given = std::getenv("TESSERA_FORCED_STREAMS");
  const size_t count = given ? std::strtoul(given, nullptr, 10) : 10000;
  std::mt19937 random(7);
  std::vector<Script> fixtures, scripts;
  for (const OrderedJson& one : answer_cases()) fixtures.push_back(script_of(one["tokens"]));
  for (size_t i = 0; i < count; ++i) scripts.push_back(hostile_script(random, fixtures));
  serve(std::move(scripts));
  std::atomic<size_t> next{0};
  std::vector<std::thread> clients;
  for (int k = 0; k < 12; ++k) {
    clients.emplace_back([&] {
      Client client(port());
      for (size_t i = next++; i < count && !HasFailure(); i = next++) {
        SCOPED_TRACE("stream " + std::to_string(i));
        const bool ignore_eos = i % 2 == 0;
        i % 3 == 0   ? check_chat(client, i, ignore_eos)
        : i % 3 == 1 ? check_responses(client, i, ignore_eos)
                     : check_messages(client, i);
      }
    });
  }
  for (std::thread& thread : clients) thread.join();
}

// Where a message of the fixtures belongs, from the format's definition.
struct Expected {
  std::string reasoning, content;
  OrderedJson calls = OrderedJson::array();

  void add(const OrderedJson& message) {
    if (message["role"] != "assistant") return;
    const std::string to = text_or_empty(message, "recipient"), channel = text_or_empty(message, "channel");
    const std::string text = message["content"];
    auto append = [&](std::string& all) { all += (all.empty() || text.empty() ? "" : "\n\n") + text; };
    if (to == "assistant") return append(reasoning);
    if (!to.empty() && to != "all" && to != "user" && channel != "final") {
      calls.push_back({{"name", to.starts_with("functions.") ? to.substr(10) : to}, {"arguments", text}});
    } else {
      append(channel == "analysis" ? reasoning : content);
    }
  }
};

TEST_F(Forced, FixturesArriveAsTheyAreMeant) {
  const std::vector<OrderedJson> cases = answer_cases();
  ASSERT_GE(cases.size(), 50u);
  std::vector<Script> scripts;
  for (const OrderedJson& one : cases) scripts.push_back(script_of(one["tokens"]));
  serve(scripts);
  Client client(port());
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE("case " + std::to_string(i));
    Expected expected;
    for (const OrderedJson& message : cases[i]["messages"]) expected.add(message);
    const OrderedJson reply = client.post_json("/v1/chat/completions", chat_body(i, true, false));
    const OrderedJson& message = reply["choices"][0]["message"];
    EXPECT_EQ(text_or_empty(message, "content"), expected.content);
    EXPECT_EQ(text_or_empty(message, "reasoning_content"), expected.reasoning);
    OrderedJson calls = OrderedJson::array();
    for (const OrderedJson& call : message.value("tool_calls", OrderedJson::array()))
      calls.push_back({{"name", call["function"]["name"]}, {"arguments", call["function"]["arguments"]}});
    EXPECT_EQ(calls, expected.calls);
    check_chat(client, i, true);
    check_responses(client, i, true);
    check_messages(client, i);
  }
}

// The rendered prompt of messages, as text.
std::string prompt_of(Client& client, const OrderedJson& messages) {
  const OrderedJson ids = client.post_json("/tokenize", {{"messages", messages}});
  return client.post_json("/detokenize", {{"tokens", ids["tokens"]}})["prompt"];
}

std::vector<HarmonyParsed> parse(const std::string& rendered) {
  HarmonyTokens tokens = HarmonyTokens::from([](std::string_view name) { return tokenizer().token_to_id(name); });
  HarmonyParser parser(tokens, std::nullopt);
  for (int32_t id : tokenizer().encode(rendered))
    parser.push(id, tokenizer().is_special(id) ? std::string() : tokenizer().token_bytes(id));
  parser.finish();
  return parser.messages();
}

// Rendered conversations of the fixtures: as JSON over HTTP, and rendered again.
TEST_F(Forced, FixtureConversationsRenderToThemselves) {
  serve({});
  Client client(port());
  for (const char* name : {"test_simple_convo", "test_simple_convo_high_effort", "test_dropping_cot_by_default",
                           "test_reasoning_system_message", "test_preserve_cot"}) {
    SCOPED_TRACE(name);
    std::string text = data_file(std::string(name) + ".txt");
    OrderedJson messages = OrderedJson::array(), reasoning;
    std::string expected;
    const std::vector<HarmonyParsed> all = parse(text);
    for (const HarmonyParsed& parsed : all) {
      std::string content = parsed.text();
      const std::string role(harmony_role_name(parsed.message.author.role));
      if (role == "system" || (content.empty() && &parsed == &all.back())) continue;
      if (parsed.message.channel == "analysis") {  // one message of OpenAI's has it with the answer, which drops it
        reasoning = content;
        continue;
      }
      const std::string channel = role == "assistant" ? "<|channel|>" + parsed.message.channel : "";
      expected += "<|start|>" + role + channel + "<|message|>" + content + "<|end|>";
      const std::string heading = "# Instructions\n\n";
      if (role == "developer" && content.starts_with(heading)) content.erase(0, heading.size());
      messages.push_back({{"role", role}, {"content", content}});
      if (!reasoning.is_null()) messages.back()["reasoning_content"] = std::exchange(reasoning, nullptr);
    }
    const std::string prompt = prompt_of(client, messages);
    EXPECT_TRUE(prompt.ends_with(expected + "<|start|>assistant")) << prompt << "\nexpected at its end:\n" << expected;
  }
}

// What the model said, sent back as clients do: reasoning stays with the call until there is an answer.
TEST_F(Forced, AnswersOfTheFixturesCanBeSentBack) {
  const OrderedJson table = OrderedJson::parse(data_file("token_bytes.json"));
  auto script = [&](const char* name) {
    const std::map<int, const char*> specials = {{200005, "<|channel|>"},  {200006, "<|start|>"},  {200007, "<|end|>"},
                                                 {200008, "<|message|>"},  {200002, "<|return|>"}, {200012, "<|call|>"},
                                                 {200003, "<|constrain|>"}};
    OrderedJson tokens = OrderedJson::array();
    std::istringstream ids(data_file(name));
    for (int id = 0; ids >> id;) {
      const auto found = specials.find(id);
      tokens.push_back(found != specials.end() ? OrderedJson(found->second) : table.at(std::to_string(id)));
    }
    return script_of(tokens);
  };
  serve({script("test_simple_reasoning_response.txt"), script("test_simple_tool_call.txt")});
  Client client(port());
  const OrderedJson user = {{"role", "user"}, {"content", "hi"}};
  auto ask = [&](size_t k) {
    return OrderedJson(client.post_json("/v1/chat/completions", chat_body(k, true, false))["choices"][0]["message"]);
  };
  const OrderedJson answer = ask(0);
  EXPECT_EQ(answer["content"], "2 + 2 = 4.");
  EXPECT_EQ(answer["reasoning_content"], "User asks: \"What is 2 + 2?\" Simple arithmetic. Provide answer.");
  const std::string after_answer = prompt_of(client, {user, answer, user});
  EXPECT_NE(after_answer.find("<|start|>assistant<|channel|>final<|message|>2 + 2 = 4.<|end|>"), std::string::npos);
  EXPECT_EQ(after_answer.find("Simple arithmetic"), std::string::npos);

  const OrderedJson called = ask(1);
  EXPECT_EQ(called["tool_calls"][0]["function"]["name"], "lookup_weather");
  EXPECT_EQ(called["tool_calls"][0]["function"]["arguments"], "{\"location\": \"Tokyo\"}");
  const OrderedJson result = {{"role", "tool"}, {"tool_call_id", called["tool_calls"][0]["id"]}, {"content", "sunny"}};
  const std::string after_call = prompt_of(client, {user, called, result});
  EXPECT_TRUE(after_call.ends_with(
      "<|start|>assistant<|channel|>analysis<|message|>User asks: \"What is the weather in Tokyo?\" We need to use "
      "lookup_weather tool.<|end|><|start|>assistant<|channel|>commentary to=functions.lookup_weather "
      "<|constrain|>json<|message|>{\"location\": \"Tokyo\"}<|call|><|start|>functions.lookup_weather to=assistant"
      "<|channel|>commentary<|message|>sunny<|end|><|start|>assistant"))
      << after_call;
}

}  // namespace
}  // namespace tessera::server
