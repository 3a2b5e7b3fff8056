// A server in this process whose model, a tiny random one, says what it is told to: a constraint allows the given
// tokens alone. For tests; one at a time.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <thread>

#include "core/json.h"
#include "make_checkpoint/random_checkpoint.h"
#include "server/http_server.h"
#include "text/tokenizer.h"

namespace tessera::server {

using Script = std::vector<int32_t>;

inline const Tokenizer& tokenizer() {
  static const Tokenizer kTokenizer = Tokenizer::from_file(TESSERA_SOURCE_DIR "/models/glossary/tokenizer.json");
  return kTokenizer;
}

inline int32_t special(const char* text) {
  return tokenizer().token_to_id(text).value();
}

// Waits as long as a slow, busy machine may need.
inline bool comes_true(const std::function<bool()>& condition) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > limit) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

// Allows the script's next token alone, and <|return|> after its last. `each_step`, if any, is called for each token.
class ScriptConstraint final : public TokenConstraint {
 public:
  ScriptConstraint(std::shared_ptr<const Script> script, std::function<void()> each_step)
      : script_(std::move(script)), each_step_(std::move(each_step)) {}

  bool fill_mask(std::span<uint32_t> mask) override {
    if (each_step_) each_step_();
    std::fill(mask.begin(), mask.end(), 0u);
    const auto id = static_cast<size_t>(next());
    mask[id / 32] |= 1u << (id % 32);
    return true;
  }
  bool accept(int32_t id) override {
    if (id != next()) return false;
    ++at_;
    return true;
  }
  void rollback(int64_t tokens) override { at_ -= static_cast<size_t>(tokens); }
  int64_t max_rollback() const override { return 1 << 20; }
  bool ended() const override { return at_ > script_->size(); }
  std::unique_ptr<TokenConstraint> clone() const override { return std::make_unique<ScriptConstraint>(*this); }

 private:
  int32_t next() const { return at_ < script_->size() ? (*script_)[at_] : special("<|return|>"); }

  std::shared_ptr<const Script> script_;
  std::function<void()> each_step_;
  size_t at_ = 0;
};

// Says script number `seed` of its list; for Anthropic's messages, which have no seed, number top_k - 1.
class ScriptedService final : public Service {
 public:
  ScriptedService(Llm& llm, const BatchOptions& options, std::vector<Script> scripts) : Service(llm, options, nullptr) {
    for (Script& script : scripts) scripts_.push_back(std::make_shared<const Script>(std::move(script)));
  }

  Submission ask(Question question, std::shared_ptr<AnswerQueue> queue) override {
    const auto number = question.params.seed.value_or(static_cast<uint64_t>(question.params.top_k) - 1);
    question.constraint = std::make_shared<ScriptConstraint>(scripts_.at(number), each_step);
    return Service::ask(std::move(question), std::move(queue));
  }
  void cancel(int64_t id) override {
    Service::cancel(id);
    cancelled_at = stats().steps;
  }

  std::function<void()> each_step;        // set before the first question; called on the engine's side
  std::atomic<int64_t> cancelled_at{-1};  // steps that had been told when the last request was cancelled

 private:
  std::vector<std::shared_ptr<const Script>> scripts_;
};

// gpt-oss with one tiny layer, and the glossary model's tokenizer and template. There until the process ends.
inline const std::string& scripted_model_folder() {
  struct Folder {
    std::string path;
    ~Folder() { std::filesystem::remove_all(path); }
  };
  static const Folder kFolder{[] {
    const std::string out = std::string(TESSERA_BINARY_DIR) + "/forced_model." + std::to_string(getpid());
    std::filesystem::remove_all(out);
    Json config = read_json_file(TESSERA_SOURCE_DIR "/models/glossary/config.json");
    config.erase("quantization_config");
    config["hidden_size"] = 32, config["num_hidden_layers"] = 1, config["layer_types"] = {"full_attention"};
    config["num_attention_heads"] = 1, config["num_key_value_heads"] = 1, config["num_local_experts"] = 4;
    config["intermediate_size"] = 32;
    const std::string config_file = out + ".json";
    std::ofstream(config_file) << config.dump();
    const RandomCheckpointOptions options{
        .config = config_file, .out = out, .tokenizer_folders = {TESSERA_SOURCE_DIR "/models/glossary"}};
    ThreadPool pool(1);
    write_random_checkpoint(plan_random_checkpoint(options), options, pool);
    std::filesystem::remove(config_file);
    return out;
  }()};
  return kFolder.path;
}

class ScriptedServerTest : public testing::Test {
 protected:
  void serve(std::vector<Script> scripts, ServerOptions options = {}, std::function<void()> each_step = nullptr) {
    options.port = 0;
    options.model_name = "m";
    llm_.emplace(Llm::load(scripted_model_folder(), {.threads = 1, .own_cache = false}));
    state_.emplace(std::move(options));
    service_ = std::make_shared<ScriptedService>(*llm_, BatchOptions{}, std::move(scripts));
    service_->each_step = std::move(each_step);
    state_->set_service(service_);
    server_.emplace(*state_);
    running_ = std::thread([this] { server_->run(); });
  }

  void TearDown() override {
    if (!running_.joinable()) return;
    for (int now = 0; now < 2; ++now) server_->drain();
    running_.join();
    // An answer leaves within the step that ends it; the step's figures are told after it.
    EXPECT_TRUE(comes_true([&] { return service_->stats().pages_held == 0; }))
        << service_->stats().pages_held << " pages are lost";
    server_.reset();
    state_->set_service(nullptr);
    service_.reset();
  }

  uint16_t port() const { return server_->port(); }
  ScriptedService& service() { return *service_; }

 private:
  std::optional<Llm> llm_;
  std::optional<ServerState> state_;
  std::shared_ptr<ScriptedService> service_;
  std::optional<HttpServer> server_;
  std::thread running_;
};

}  // namespace tessera::server
