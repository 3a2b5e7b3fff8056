// tessera serve: an HTTP server that speaks OpenAI's API. It listens at once, says on /health that it is loading, and
// serves until SIGINT or SIGTERM, after which running answers may finish.
#include <CLI/CLI.hpp>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <exception>
#include <filesystem>
#include <mutex>
#include <optional>
#include <sstream>
#include <thread>

#include "cli/batch_options.h"
#include "cli/commands.h"
#include "cli/terminal.h"
#include "core/env.h"
#include "core/error.h"
#include "core/log.h"
#include "server/http_server.h"

namespace tessera::cli {

namespace {

constexpr const char* kExamples = R"(
routes: /v1/chat/completions /v1/completions /v1/responses /v1/messages /v1/models /tokenize /detokenize /health /metrics
/openapi.json; / is a chat page. docs/serving.md tells more.

examples:
  tessera serve models/glossary --port 8000
  curl localhost:8000/v1/chat/completions -H 'content-type: application/json' \
    -d '{"messages": [{"role": "user", "content": "Define courage."}], "stream": true}'
  TESSERA_API_KEY=secret tessera serve MODEL --host 0.0.0.0 --max-requests 64 --cache-memory 8GiB)";

struct Options {
  ModelOptions model;
  BatchOptions batch;
  server::ServerOptions server;
  std::string key_file;
};

void add_server_options(CLI::App& app, Options& options) {
  server::ServerOptions& s = options.server;
  constexpr const char* kGroup = "Server";
  app.add_option("--host", s.host, "address to listen on; 0.0.0.0: all of this machine's")
      ->capture_default_str()
      ->group(kGroup);
  app.add_option("--port", s.port, "port to listen on; 0: any free one")->capture_default_str()->group(kGroup);
  app.add_option("--model-name", s.model_name, "what requests call the model; default: its folder's name")
      ->group(kGroup);
  app.add_option("--api-key-file", options.key_file,
                 "file of keys, one a line, of which requests must give one; or set TESSERA_API_KEY")
      ->group(kGroup);
  app.add_option("--cors-origin", s.cors_origins, "web site whose pages may use this server; * allows all")
      ->group(kGroup)
      ->allow_extra_args(false);
  auto count = [&](const char* name, int64_t& target, const char* help) {
    app.add_option(name, target, help)
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
        ->capture_default_str()
        ->group(kGroup);
  };
  count("--max-queue", options.batch.max_queue_size, "requests that wait; more are answered with 429");
  count("--max-queue-tokens", options.batch.max_queue_tokens, "and the tokens of their prompts");
  count("--max-connections", s.max_connections, "open connections");
  app.add_option("--max-body", s.max_body_bytes, "bytes of a request's body, such as 8MiB")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->group(kGroup);
  auto seconds = [&](const char* name, double& target, const char* help) {
    app.add_option(name, target, help)->check(CLI::Range(0.001, 1e6))->capture_default_str()->group(kGroup);
  };
  seconds("--request-timeout", s.request_seconds, "seconds until an unfinished answer is an error");
  seconds("--read-timeout", s.header_seconds, "seconds for a request's head, and for its body and each MB of it");
  seconds("--write-timeout", s.write_seconds, "seconds for a client to take what it was sent");
  seconds("--drain-timeout", s.drain_seconds, "seconds that running answers have after SIGTERM");
  app.add_flag("--log-bodies", s.log_bodies, "log requests with their text (with --log-level info)")->group(kGroup);
}

std::vector<std::string> read_keys(const std::string& file) {
  std::vector<std::string> keys;
  if (std::string key = env_string(Env::kApiKey); !key.empty()) keys.push_back(std::move(key));
  if (file.empty()) return keys;
  std::istringstream lines(read_text_file(file, 1 << 20));
  for (std::string line; std::getline(lines, line);) {
    line.erase(line.find_last_not_of(" \t\r") + 1);
    if (!line.empty()) keys.push_back(line);
  }
  if (keys.empty()) fail(ErrorCode::kInvalidArgument, "{}: there is no key in it; write one a line", file);
  return keys;
}

std::string folder_name(const std::string& model) {
  const std::filesystem::path path = std::filesystem::weakly_canonical(model);
  return path.filename().empty() ? path.parent_path().filename().string() : path.filename().string();
}

void announce(const Invocation& call, const server::ServerState& state, uint16_t port) {
  const server::ServerOptions& o = state.options;
  const std::string host = o.host.find(':') == std::string::npos ? o.host : "[" + o.host + "]";
  const std::string url = fmt::format("http://{}:{}", host, port);
  if (call.json) {
    call.out.json({{"url", url}, {"model", o.model_name}});
  } else {
    call.out.text(fmt::format("{} serves on {} (Ctrl-C ends it)\n", o.model_name, url));
  }
}

// How serving ends. A rank that is lost, or a fault of the device: no step can run in this process any more, and what
// ran was answered with it. /health says so for a while, for balancers to see, then the server ends, to be started
// anew.
struct End {
  void died(const std::string& why) {
    std::lock_guard lock(mutex);
    if (dead.empty()) dead = why;
    changed.notify_all();
  }
  void end() {
    std::lock_guard lock(mutex);
    ended = true;
    changed.notify_all();
  }
  // True when the engine has died and that was shown; false when the server has ended.
  bool wait_for_death() {
    constexpr auto kShown = std::chrono::seconds(3);
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return ended || !dead.empty(); });
    return !changed.wait_for(lock, kShown, [&] { return ended; });
  }

  std::mutex mutex;
  std::condition_variable changed;
  bool ended = false;
  std::string dead;
};

}  // namespace

int cmd_serve(Invocation& call) {
  CLI::App app{"Answers over HTTP, as OpenAI's API does.", "tessera serve"};
  Options options;
  add_model_options(app, options.model);
  add_rank_options(app, options.model);
  add_server_options(app, options);
  add_batch_options(app, options.batch);
  app.footer(kExamples);
  if (!parse(app, call)) return 0;

  const std::string given = options.model.model;
  serve_other_rank(options.model);
  options.model.model = find_model(given);
  options.server.api_keys = read_keys(options.key_file);
  options.server.model_path = options.model.model;
  options.server.body_seconds = options.server.header_seconds;
  if (options.server.model_name.empty())
    options.server.model_name = options.model.model == given ? folder_name(given) : given;  // a hub id stays one
  End end;
  std::optional<Llm> llm;
  server::ServerState state(options.server);
  server::HttpServer http(state);
  if (options.server.api_keys.empty() && options.server.host != "127.0.0.1" && options.server.host != "localhost" &&
      options.server.host != "::1")
    log::warn("anyone who reaches {} can use this server; set TESSERA_API_KEY", options.server.host);
  http.drain_on_signals();
  std::exception_ptr failure;
  std::thread loading([&] {
    try {
      options.model.load.own_cache = false;
      llm.emplace(load_llm(options.model));
      auto service = std::make_shared<Service>(*llm, options.batch, &state.metrics);
      service->on_death([&](const std::string& why) { end.died(why); });
      state.set_service(std::move(service));
      announce(call, state, http.port());
    } catch (...) {
      failure = std::current_exception();
      for (int now = 0; now < 2; ++now) http.drain();
    }
  });
  std::thread watch([&] {
    if (end.wait_for_death())
      for (int now = 0; now < 2; ++now) http.drain();
  });
  http.run();
  end.end();
  watch.join();
  loading.join();
  state.set_service(nullptr);
  if (failure) std::rethrow_exception(failure);
  if (!end.dead.empty()) fail(ErrorCode::kIo, "{}", end.dead);
  return http.signal() == SIGINT ? kInterruptedExit : 0;
}

}  // namespace tessera::cli
