// What a model does beyond plain answers, with ranks (threads) as without: sampling, drafts, shared prefixes, windows,
// kernels from outside, the server; and what the plan says of communication against bytes counted in a run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <thread>

#include "api/llm_impl.h"
#include "api/parallel_plan.h"
#include "api/service.h"
#include "core/error.h"
#include "core/json.h"
#include "kernels/hub/runtime.h"
#include "models/registry.h"
#include "server/http_server.h"
#include "support/fixtures.h"
#include "support/rank_plans.h"
#include "tessera/batch.h"

namespace tessera {
namespace {

const RankPlan kPlans[] = {{.tp = 2},
                           {.tp = 3},
                           {.ep = 2},
                           {.tp = 1, .ep = 2},
                           {.tp = 4, .ep = 2},
                           {.ep = 2, .attention = "dp"},
                           {.tp = 2, .ep = 4, .attention = "dp"}};

std::string glossary() {
  return std::string(TESSERA_SOURCE_DIR) + "/models/glossary";
}

struct Answers {
  std::vector<Generation> made;
  BatchReport report;
  std::vector<std::vector<int32_t>> ids() const {
    std::vector<std::vector<int32_t>> all;
    for (const Generation& g : made) all.push_back(g.ids);
    return all;
  }
};

Answers answers(Llm& llm, const std::vector<BatchRequest>& requests, const BatchOptions& options = {}) {
  Answers out;
  size_t next = 0;
  out.made.resize(requests.size());
  out.report = generate_batch(
      llm, [&]() { return next < requests.size() ? std::optional(requests[next++]) : std::nullopt; },
      [&](BatchOutput&& one) {
        EXPECT_EQ(one.status, BatchStatus::kFinished) << one.error;
        out.made[static_cast<size_t>(std::stoi(one.id))] = std::move(one.generation);
        return true;
      },
      options);
  return out;
}

std::vector<BatchRequest> requests_of(Llm& llm, const std::vector<std::string>& texts, const SamplingParams& params) {
  std::vector<BatchRequest> requests;
  for (size_t i = 0; i < texts.size(); ++i)
    requests.push_back({.id = std::to_string(i), .prompt = llm.encode(texts[i]), .params = params});
  return requests;
}

// The same on every plan; `look` sees one rank's answers and then each plan's.
void same_under_ranks(const std::function<Answers(Llm&)>& ask, const std::function<void(const Answers&)>& look) {
  std::optional<Answers> one;
  {
    Llm llm = Llm::load(glossary(), cpu_ranks({}));
    one = ask(llm);
    look(*one);
  }
  for (const RankPlan& plan : kPlans) {
    SCOPED_TRACE(name_of(plan));
    Llm llm = Llm::load(glossary(), cpu_ranks(plan));
    const Answers many = ask(llm);
    EXPECT_EQ(many.ids(), one->ids());
    look(many);
    for (size_t i = 0; i < many.made.size(); ++i) {
      ASSERT_EQ(many.made[i].logprobs.size(), one->made[i].logprobs.size());
      for (size_t t = 0; t < many.made[i].logprobs.size(); ++t) {
        const TokenLogprob &a = many.made[i].logprobs[t], &b = one->made[i].logprobs[t];
        EXPECT_NEAR(a.logprob, b.logprob, 1e-3f);
        ASSERT_EQ(a.top.size(), b.top.size());
        for (size_t k = 0; k < a.top.size(); ++k) EXPECT_NEAR(a.top[k].second, b.top[k].second, 1e-3f);
      }
    }
  }
}

const std::vector<std::string> kTexts = {"Courage means", "The word river", "Define a clock:", "A bridge is"};

TEST(RanksSampling, PenaltiesBiasesAndLogprobs) {
  same_under_ranks(
      [](Llm& llm) {
        std::vector<BatchRequest> requests =
            requests_of(llm, kTexts, {.temperature = 0, .logprobs = 3, .ignore_eos = true, .max_tokens = 24});
        requests[0].params.repetition_penalty = 1.4;
        requests[1].params.frequency_penalty = 0.8, requests[1].params.presence_penalty = 0.4;
        requests[2].params.logit_bias = {{65, 4.0f}, {300, -100.0f}};
        requests[3].params.logprobs = 0;
        return answers(llm, requests);
      },
      [](const Answers& a) {
        for (size_t i = 0; i < 4; ++i) {
          ASSERT_EQ(a.made[i].logprobs.size(), a.made[i].ids.size());
          EXPECT_EQ(a.made[i].logprobs[0].top.size(), i < 3 ? 3u : 0u);
        }
      });
}

TEST(RanksSampling, DrawnTokensWithEveryCut) {
  same_under_ranks(
      [](Llm& llm) {
        std::vector<BatchRequest> requests =
            requests_of(llm, kTexts, {.temperature = 0.9, .seed = 17, .ignore_eos = true, .max_tokens = 20});
        requests[0].params.top_k = 7;
        requests[1].params.top_p = 0.8;
        requests[2].params.min_p = 0.1;
        return answers(llm, requests);
      },
      [](const Answers&) {});
}

// Drafts from the prompt are made and some are right, and change nothing.
TEST(RanksSpeculation, DraftsAreTakenAndAnswersStay) {
  same_under_ranks(
      [](Llm& llm) {
        const std::string again = "The word river means water. The word river means water. The word river means";
        return answers(
            llm, requests_of(llm, {again, again + " water"}, {.temperature = 0, .ignore_eos = true, .max_tokens = 40}),
            {.prompt_lookup = 5});
      },
      [](const Answers& a) {
        EXPECT_GT(a.report.drafted_tokens, 0);
        EXPECT_GT(a.report.accepted_tokens, 0);
      });
}

// Beginnings come from the cache, of each group of ranks its own.
TEST(RanksPrefix, SharedBeginningsAreNotComputedAgain) {
  same_under_ranks(
      [](Llm& llm) {
        std::string begin;
        for (int i = 0; i < 12; ++i) begin += "A glossary says what words mean, one after another. ";
        std::vector<std::string> texts;
        for (const std::string& text : kTexts) texts.push_back(begin + text);
        // One at a time, so that each finds what those before it left.
        return answers(llm, requests_of(llm, texts, {.temperature = 0, .ignore_eos = true, .max_tokens = 12}),
                       {.max_requests_per_batch = 1});
      },
      [](const Answers& a) { EXPECT_GT(a.report.cached_tokens, 200); });
}

// Sliding windows: pages go as soon as nothing sees them, and a long answer is the same.
TEST(RanksWindows, LongAnswersAndFewPages) {
  same_under_ranks(
      [](Llm& llm) {
        return answers(
            llm, requests_of(llm, {kTexts[0], kTexts[1]}, {.temperature = 0, .ignore_eos = true, .max_tokens = 300}));
      },
      [](const Answers& a) {
        for (const Generation& g : a.made) EXPECT_EQ(g.ids.size(), 300u);
      });
  const Checkpoint checkpoint = Checkpoint::open(glossary());
  int64_t windows = 0;
  for (const LayerCache& layer : make_model(checkpoint.config())->cache().layers)
    windows += layer.window > 0 && layer.window < 300;
  EXPECT_GT(windows, 0) << "the model has no window that a long answer leaves";
}

// Kernels from outside, on each rank's part of the model.
class RanksHub : public testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    if (!hub_kernels::Runtime::try_open(&why)) GTEST_SKIP() << why;
    cache_ = testing::TempDir() + "/ranks_hub." + std::to_string(getpid());
    setenv("TESSERA_KERNEL_CHECKER", TESSERA_PROGRAM, 1);
    setenv("XDG_CACHE_HOME", cache_.c_str(), 1);
  }
  void TearDown() override {
    unsetenv("TESSERA_KERNEL_CHECKER");
    unsetenv("XDG_CACHE_HOME");
    if (!cache_.empty()) std::filesystem::remove_all(cache_);
  }

  struct Outcome {
    std::vector<std::vector<int32_t>> ids;
    Json choices;
  };
  static Outcome run(const RankPlan& plan, const std::string& kernels) {
    LoadOptions options = cpu_ranks(plan);
    options.use_kernels = kernels;
    Llm llm = Llm::load(glossary(), options);
    Outcome out;
    out.ids = answers(llm, requests_of(llm, kTexts, {.temperature = 0, .ignore_eos = true, .max_tokens = 16})).ids();
    out.choices = Json::parse(llm.explain_kernels(1, 1));
    return out;
  }
  // The row that computes an op on rank 0, and why the first row of that name did not.
  static std::string row_of(const Outcome& o, const std::string& op) {
    for (const Json& choice : o.choices)
      if (choice["op"] == op) return choice["row"];
    return "";
  }
  static std::string refusal_of(const Outcome& o, const std::string& op, const std::string& row) {
    for (const Json& choice : o.choices) {
      if (choice["op"] != op) continue;
      for (const Json& refused : choice["refused"])
        if (refused["row"] == row) return refused["why"];
    }
    return "";
  }

 private:
  std::string cache_;
};

const RankPlan kHubPlans[] = {{.tp = 2}, {.ep = 2}, {.tp = 1, .ep = 2}, {.ep = 2, .attention = "dp"}};

TEST_F(RanksHub, OurKernelsFromOutsideSayTheSame) {
  const std::string ours = TESSERA_KERNELS_LIBRARY;
  const std::string all = "RMSNorm=" + ours + ",MoE=" + ours + ",attention=" + ours + ",rotary_pos_emb=" + ours;
  const Outcome plain = run({}, "");
  EXPECT_EQ(run({}, all).ids, plain.ids);
  for (const RankPlan& plan : kHubPlans) {
    SCOPED_TRACE(name_of(plan));
    const Outcome hub = run(plan, all);
    EXPECT_EQ(hub.ids, plain.ids);
    for (const char* op : {"rms_norm", "moe", "attention"}) EXPECT_EQ(row_of(hub, op), ours) << op;
  }
}

// A library that knows nothing of ranks: its norm serves all of them; its experts are refused, with the reason, and the
// built-in ones serve.
TEST_F(RanksHub, WhatCannotServeAPartIsRefusedByName) {
  const std::string whole = TESSERA_WHOLE_KERNELS;
  const Outcome plain = run({}, "");
  for (const RankPlan& plan : kHubPlans) {
    SCOPED_TRACE(name_of(plan));
    const Outcome hub = run(plan, "RMSNorm=" + whole + ",MoE=" + whole);
    EXPECT_EQ(hub.ids, plain.ids);
    EXPECT_EQ(row_of(hub, "rms_norm"), whole);
    EXPECT_NE(row_of(hub, "moe"), whole);
    const std::string why =
        plan.ep > 1 ? "this rank holds some of the experts, and the library exports no moe_mlp_part" : "wrong result";
    EXPECT_THAT(refusal_of(hub, "moe", whole), testing::HasSubstr(why));
  }
}

// The server, over HTTP.
std::string post(uint16_t port, const std::string& path, const Json& body) {
  namespace http = boost::beast::http;
  boost::asio::io_context io;
  boost::asio::ip::tcp::socket socket(io);
  socket.connect({boost::asio::ip::address_v4::loopback(), port});
  http::request<http::string_body> request{http::verb::post, path, 11};
  request.set(http::field::host, "localhost");
  request.body() = body.dump();
  request.prepare_payload();
  http::write(socket, request);
  boost::beast::flat_buffer buffer;
  http::response<http::string_body> response;
  http::read(socket, buffer, response);
  EXPECT_EQ(response.result_int(), 200u) << response.body();
  return response.body();
}

// Several clients at once, whole and streamed.
std::vector<std::string> served(const RankPlan& plan) {
  LoadOptions load = cpu_ranks(plan);
  load.own_cache = false;
  Llm llm = Llm::load(glossary(), load);
  server::ServerState state(server::ServerOptions{.port = 0, .model_name = "m"});
  state.set_service(std::make_shared<Service>(llm, BatchOptions{}, nullptr));
  server::HttpServer http(state);
  std::thread running([&] { http.run(); });
  std::vector<std::string> texts(kTexts.size() + 1);
  std::vector<std::thread> clients;
  for (size_t i = 0; i < texts.size(); ++i) {
    clients.emplace_back([&, i] {
      const bool chat = i == kTexts.size();
      Json body{{"max_tokens", 24}, {"temperature", 0}, {"ignore_eos", true}};
      if (chat) {
        body["messages"] = {{{"role", "user"}, {"content", "What does courage mean?"}}};
      } else {
        body["prompt"] = kTexts[i];
      }
      const Json answer = Json::parse(post(http.port(), chat ? "/v1/chat/completions" : "/v1/completions", body));
      const Json& choice = answer["choices"][0];
      texts[i] = chat ? choice["message"].dump() : choice["text"].get<std::string>();
    });
  }
  for (std::thread& client : clients) client.join();
  for (int now = 0; now < 2; ++now) http.drain();
  running.join();
  state.set_service(nullptr);
  return texts;
}

TEST(RanksServed, TheSameTextsOverHttp) {
  const std::vector<std::string> one = served({});
  for (const std::string& text : one) EXPECT_NE(text, "");
  for (const RankPlan& plan : kHubPlans) EXPECT_EQ(served(plan), one) << name_of(plan);
}

// Bytes that rank 0 sent, over all its communicators.
Traffic sent_by(const StepRanks& ranks) {
  Traffic sum;
  for (const Communicator* c : std::set<const Communicator*>{ranks.world, ranks.tensor, ranks.replicas}) {
    sum.all_reduce += c->traffic().all_reduce, sum.all_gather += c->traffic().all_gather;
    sum.all_to_all += c->traffic().all_to_all;
  }
  return sum;
}

// A step with as many tokens of each group, against the plan's account of it.
TEST(RanksPlan, CountedBytesAreThePlans) {
  TS_NEED_FIXTURE(folder, "gpt_oss_mxfp4");
  for (const RankPlan& plan : {RankPlan{.tp = 2}, RankPlan{.ep = 2}, RankPlan{.ep = 2, .attention = "dp"},
                               RankPlan{.ep = 4, .attention = "dp"}, RankPlan{.tp = 2, .ep = 4, .attention = "dp"},
                               RankPlan{.ep = 2, .experts = "all-reduce"}}) {
    SCOPED_TRACE(name_of(plan));
    constexpr int64_t kTokens = 96;  // a group's
    LoadOptions options = cpu_ranks(plan);
    options.own_cache = false;
    Llm llm = Llm::load(folder, options);
    Llm::Impl& impl = llm.impl();
    RunnerOptions at_once = impl.run_options;
    at_once.max_sequences = 4;
    Runner runner(*impl.model, impl.kernels, impl.pool, *impl.context, at_once, impl.links());
    const StepRanks& ranks = llm.impl().team->links.step;
    const size_t groups = runner.caches().size();
    std::vector<std::unique_ptr<Sequence>> sequences;
    std::vector<std::vector<int32_t>> prompts;
    std::vector<RunItem> items;
    for (size_t g = 0; g < groups; ++g) {
      sequences.push_back(runner.open());
      ASSERT_TRUE(sequences.back()->cache().reserve(*sequences.back(), kTokens));
      prompts.emplace_back();
      for (int64_t t = 0; t < kTokens; ++t)
        prompts.back().push_back(static_cast<int32_t>((37 * t + 101 * static_cast<int64_t>(g)) % 320));
    }
    for (size_t g = 0; g < groups; ++g) items.push_back({sequences[g].get(), prompts[g], WantLogits::kLast});
    const Traffic before = sent_by(ranks);
    ASSERT_TRUE(runner.run(items).has_value());
    const Traffic after = sent_by(ranks);

    const Checkpoint checkpoint = Checkpoint::open(folder);
    const std::unique_ptr<Model> model = make_model(checkpoint.config());
    const Json c = describe_plan(checkpoint, *model,
                                 {.mesh = llm.impl().mesh,
                                  .dispatch = ranks.exchange == ExpertExchange::kDispatch,
                                  .dtype = DType::kF32})["communication"];
    const auto layers = static_cast<double>(model->info().num_hidden_layers);
    const double tokens = static_cast<double>(kTokens) * static_cast<double>(groups),
                 rows = static_cast<double>(groups);
    const bool dispatch = c["experts"]["kind"] == "dispatch";
    auto number = [&](const char* what, const char* key) { return c[what][key].get<double>(); };
    const double experts = number("experts", "rows");
    const double sums =
        tokens * layers * (number("attention", "bytes_sent_a_token_a_layer") + (dispatch ? 0 : experts));
    const double gathers = tokens * layers * (number("experts", "routing") + number("experts", "shared")) +
                           rows * (number("logits", "hidden_bytes_sent_a_row") + number("logits", "bytes_sent_a_row"));
    EXPECT_NEAR(static_cast<double>(after.all_reduce - before.all_reduce), sums, 1e-6 * sums);
    EXPECT_NEAR(static_cast<double>(after.all_gather - before.all_gather), gathers, 1e-6 * gathers);
    // The plan takes experts to be equally busy; this model's are nearly.
    const double expected = dispatch ? tokens * layers * experts : 0;
    std::printf("%s: %ld bytes to experts and back, planned %.0f\n", name_of(plan).c_str(),
                static_cast<long>(after.all_to_all - before.all_to_all), expected);
    EXPECT_NEAR(static_cast<double>(after.all_to_all - before.all_to_all), expected, 0.08 * expected);
  }
}

}  // namespace
}  // namespace tessera
