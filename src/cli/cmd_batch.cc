// tessera batch: a file of requests in OpenAI's batch format, answered over one running batch. Each result is one line,
// written whole when its request ends, so that a killed run goes on where it was.
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <map>
#include <set>

#include "api/openai_json.h"
#include "cli/batch_options.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/terminal.h"
#include "core/error.h"

namespace tessera::cli {

namespace {

constexpr const char* kExamples = R"(
A request is one line:
  {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
   "body": {"messages": [{"role": "user", "content": "Define courage."}], "temperature": 0, "max_tokens": 200}}
/v1/completions takes {"prompt": "text"} or {"prompt": [token ids]}. A result is one line, in the order in which the
requests end; a request that is refused gets a line with its error, and the others go on.
Started again with the same file, it answers only what has no result yet.

examples:
  tessera batch models/glossary requests.jsonl -o results.jsonl
  tessera batch MODEL requests.jsonl -o results.jsonl --max-requests 64 --cache-memory 4GiB --json)";

struct Options {
  ModelOptions model;
  BatchOptions batch;
  std::string requests, results;
};

struct Line {
  std::string custom_id;
  OrderedJson json;  // the whole line; discarded when it is no JSON
  size_t number = 0;
};

std::vector<Line> read_requests(const std::string& path) {
  std::vector<Line> lines;
  std::set<std::string> seen;
  const std::string text = read_input(path);
  size_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    OrderedJson json = OrderedJson::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("custom_id") || !json["custom_id"].is_string())
      fail(ErrorCode::kInvalidArgument, "{}:{}: expected a JSON object with a \"custom_id\"", path, number);
    std::string id = json["custom_id"];
    if (!seen.insert(id).second)
      fail(ErrorCode::kInvalidArgument, "{}:{}: custom_id \"{}\" occurs twice", path, number, id);
    lines.push_back({std::move(id), std::move(json), number});
  }
  return lines;
}

// The results of an earlier run, and more of them.
class Results {
 public:
  // Keeps whole lines of an earlier run and cuts off one that was not finished.
  explicit Results(std::string path) : path_(std::move(path)) {
    if (std::filesystem::exists(path_)) {
      const std::string text = read_text_file(path_);
      const size_t whole = text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1;
      for (size_t begin = 0; begin < whole;) {
        const size_t end = text.find('\n', begin);
        OrderedJson json = OrderedJson::parse(text.substr(begin, end - begin), nullptr, /*allow_exceptions=*/false);
        if (!json.is_object() || !json.contains("custom_id") || !json["custom_id"].is_string())
          fail(ErrorCode::kCorrupt, "{}: byte {}: not a result; give another -o or remove the file", path_, begin);
        done_.insert(json["custom_id"].get<std::string>());
        begin = end + 1;
      }
      if (whole < text.size()) std::filesystem::resize_file(path_, whole);
    }
    file_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file_ < 0) fail(ErrorCode::kIo, "{}: {}", path_, std::strerror(errno));
  }
  ~Results() { close(file_); }
  Results(const Results&) = delete;

  bool has(const std::string& custom_id) const { return done_.contains(custom_id); }
  int64_t written() const { return written_; }

  void add(const OrderedJson& object) {
    const std::string line = object.dump(-1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
    for (size_t at = 0; at < line.size();) {
      const ssize_t n = write(file_, line.data() + at, line.size() - at);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail(ErrorCode::kIo, "{}: {}", path_, std::strerror(errno));
      at += static_cast<size_t>(n);
    }
    ++written_;
  }

 private:
  std::string path_;
  std::set<std::string> done_;
  int file_ = -1;
  int64_t written_ = 0;
};

class BatchJob {
 public:
  BatchJob(Llm& llm, Results& results, std::vector<Line> lines)
      : llm_(llm),
        reader_(llm),
        results_(results),
        lines_(std::move(lines)),
        progress_("requests", static_cast<int64_t>(lines_.size())) {}

  BatchReport run(const BatchOptions& options) {
    BatchReport report = generate_batch(
        llm_, [this] { return next(); }, [this](BatchOutput&& out) { return take(std::move(out)); }, options);
    if (broken_) std::rethrow_exception(broken_);
    return report;
  }
  int64_t refused() const { return refused_; }

 private:
  struct Open {
    OpenAiRequest request;
    std::vector<BatchOutput> outputs;
  };

  // The next line that can be run; those that cannot are answered at once.
  std::optional<BatchRequest> next() {
    while (at_ < lines_.size()) {
      Line line = std::move(lines_[at_++]);
      try {
        Open open{read(line.json), {}};
        open.request.request.id = line.custom_id;
        BatchRequest request = open.request.request;
        open_.emplace(line.custom_id, std::move(open));
        return request;
      } catch (const Error& e) {
        answer_error(line.custom_id, e.what(), 400);
      }
    }
    return std::nullopt;
  }

  OpenAiRequest read(const OrderedJson& line) {
    const OrderedJson* body = line.contains("body") ? &line["body"] : nullptr;
    if (!body || !body->is_object()) fail(ErrorCode::kInvalidArgument, "the line has no \"body\" object");
    const std::string url = line.contains("url") && line["url"].is_string() ? line["url"].get<std::string>() : "";
    if (url == "/v1/chat/completions") return reader_.chat_completion(*body);
    if (url == "/v1/completions") return reader_.completion(*body);
    fail(ErrorCode::kUnsupported, "url \"{}\": expected /v1/chat/completions or /v1/completions", url);
  }

  bool take(BatchOutput&& out) {
    try {
      auto it = open_.find(out.id);
      if (it == open_.end()) return true;  // another sample of it has failed
      Open& open = it->second;
      const bool failed = out.status == BatchStatus::kFailed;
      open.outputs.push_back(std::move(out));
      if (!failed && static_cast<int>(open.outputs.size()) < open.request.request.samples) return true;
      Open whole = std::move(open);
      const std::string custom_id = it->first;
      open_.erase(it);
      if (failed) {
        answer_error(custom_id, whole.outputs.back().error, 400);
      } else {
        answer(custom_id, whole);
      }
      return true;
    } catch (...) {
      broken_ = std::current_exception();
      return false;
    }
  }

  void answer(const std::string& custom_id, Open& open) {
    std::ranges::sort(open.outputs, {}, &BatchOutput::sample);
    OrderedJson body = openai_response(llm_, open.request, open.outputs, "cmpl-" + custom_id, std::time(nullptr));
    OrderedJson timing = OrderedJson::array();
    for (const BatchOutput& o : open.outputs) {
      timing.push_back({{"status", batch_status_name(o.status)},
                        {"created", o.created_time},
                        {"started", o.started_time},
                        {"first_token", o.first_token_time},
                        {"finished", o.finished_time},
                        {"preemptions", o.preemptions}});
    }
    put(custom_id, 200, std::move(body), std::move(timing));
  }

  void answer_error(const std::string& custom_id, const std::string& message, int code) {
    ++refused_;
    open_.erase(custom_id);
    put(custom_id, code, openai_error(message, "invalid_request_error"), OrderedJson());
  }

  void put(const std::string& custom_id, int code, OrderedJson body, OrderedJson timing) {
    OrderedJson line = {
        {"id", "batch_req_" + custom_id},
        {"custom_id", custom_id},
        {"response", {{"status_code", code}, {"request_id", "req_" + custom_id}, {"body", std::move(body)}}},
        {"error", nullptr}};
    if (!timing.is_null()) line["timing"] = std::move(timing);
    results_.add(line);
    progress_.update(results_.written());
  }

  Llm& llm_;
  OpenAiReader reader_;
  Results& results_;
  std::vector<Line> lines_;
  size_t at_ = 0;
  std::map<std::string, Open> open_;
  int64_t refused_ = 0;
  std::exception_ptr broken_;
  Progress progress_;
};

}  // namespace

int cmd_batch(Invocation& call) {
  CLI::App app{"Answers a file of requests.", "tessera batch"};
  Options options;
  add_model_options(app, options.model);
  add_rank_options(app, options.model);
  app.add_option("REQUESTS", options.requests, "requests, one JSON object a line; - is standard input")->required();
  app.add_option("-o,--output", options.results, "where the results go, one JSON object a line")->required();
  add_batch_options(app, options.batch);
  app.footer(kExamples);
  if (!parse(app, call)) return 0;

  std::vector<Line> lines = read_requests(options.requests);
  options.model.model = find_model(options.model.model);
  Results results(options.results);
  const size_t all = lines.size();
  std::erase_if(lines, [&](const Line& line) { return results.has(line.custom_id); });
  const size_t earlier = all - lines.size();
  Llm llm = load_llm(options.model);
  InterruptScope interrupt(&llm, SecondInterrupt::kEndsProgram);
  BatchJob job(llm, results, std::move(lines));
  const BatchReport report = job.run(options.batch);
  const bool whole = static_cast<size_t>(results.written()) + earlier == all;
  if (call.json) {
    OrderedJson object = report_json(report);
    object["earlier"] = earlier;
    object["written"] = results.written();
    object["refused"] = job.refused();
    call.out.json(object);
  } else {
    call.out.text(fmt::format(
        "{} results in {} ({} of them from an earlier run, {} with an error): {} tokens in {:.1f} s, {:.1f} a second\n",
        results.written() + static_cast<int64_t>(earlier), options.results, earlier, job.refused(),
        report.completion_tokens, report.seconds,
        report.seconds > 0 ? static_cast<double>(report.completion_tokens) / report.seconds : 0.0));
    if (report.drafted_tokens > 0) {
      call.out.text(fmt::format(
          "prompt lookup: {} of {} drafted tokens accepted ({:.0f} %)\n", report.accepted_tokens, report.drafted_tokens,
          100.0 * static_cast<double>(report.accepted_tokens) / static_cast<double>(report.drafted_tokens)));
    }
  }
  return whole ? 0 : kInterruptedExit;
}

}  // namespace tessera::cli
