#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include "core/json.h"

namespace tessera::server {

namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

const prometheus::Histogram::BucketBoundaries kLatency = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                                          0.5,   1,      2.5,   5,    10,    30,   60,  120};
const prometheus::Histogram::BucketBoundaries kGap = {0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032,
                                                      0.064,  0.128, 0.256, 0.512, 1.024, 2.048, 4.096};
const prometheus::Histogram::BucketBoundaries kTokens = {1,   2,    5,    10,   20,    50,    100,   200,
                                                         500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};

// A value of the engine's own statistics.
struct EngineRow {
  const char* name;
  const char* help;
  MetricType type;
  double (*value)(const EngineStats&);
};

template <auto Member>
double of(const EngineStats& s) {
  return static_cast<double>(s.*Member);
}

constexpr MetricType kGauge = MetricType::Gauge, kCounter = MetricType::Counter;
const EngineRow kEngineRows[] = {
    {"tessera_requests_running", "Answers that are being generated.", kGauge, of<&EngineStats::running>},
    {"tessera_requests_waiting", "Requests in the queue.", kGauge, of<&EngineStats::waiting>},
    {"tessera_step_tokens", "Tokens computed in the last step.", kGauge, of<&EngineStats::step_tokens>},
    {"tessera_steps_total", "Steps of the model.", kCounter, of<&EngineStats::steps>},
    {"tessera_prompt_tokens_total", "Prompt tokens computed.", kCounter, of<&EngineStats::prompt_tokens>},
    {"tessera_generation_tokens_total", "Tokens generated.", kCounter, of<&EngineStats::answer_tokens>},
    {"tessera_preemptions_total", "Answers that gave way for lack of cache pages.", kCounter,
     of<&EngineStats::preemptions>},
    {"tessera_answers_finished_total", "Answers that ended by themselves.", kCounter, of<&EngineStats::finished>},
    {"tessera_answers_failed_total", "Answers that ended with an error.", kCounter, of<&EngineStats::failed>},
    {"tessera_answers_cancelled_total", "Answers whose client went away.", kCounter, of<&EngineStats::cancelled>},
    {"tessera_draft_tokens_total", "Tokens guessed by prompt lookup.", kCounter, of<&EngineStats::drafted_tokens>},
    {"tessera_draft_tokens_accepted_total", "Guessed tokens that were right.", kCounter,
     of<&EngineStats::accepted_tokens>},
    {"tessera_cache_pages", "Pages of the cache.", kGauge, of<&EngineStats::pages>},
    {"tessera_cache_pages_held", "Pages that running requests hold.", kGauge, of<&EngineStats::pages_held>},
    {"tessera_cache_pages_cached", "Pages kept for later prompts.", kGauge, of<&EngineStats::pages_cached>},
    {"tessera_cache_usage_ratio", "Share of the pages that running requests hold.", kGauge,
     [](const EngineStats& s) {
       return s.pages > 0 ? static_cast<double>(s.pages_held) / static_cast<double>(s.pages) : 0;
     }},
    {"tessera_prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.", kCounter,
     [](const EngineStats& s) { return static_cast<double>(s.cache.lookup_tokens); }},
    {"tessera_prefix_cache_hits_total", "Prompt tokens found in the prefix cache.", kCounter,
     [](const EngineStats& s) { return static_cast<double>(s.cache.hit_tokens); }},
    {"tessera_cache_evicted_pages_total", "Pages dropped from the prefix cache.", kCounter,
     [](const EngineStats& s) { return static_cast<double>(s.cache.evicted_pages); }},
};

MetricFamily family(const char* name, const char* help, MetricType type, double value) {
  ClientMetric metric;
  (type == kCounter ? metric.counter.value : metric.gauge.value) = value;
  return {name, help, type, {metric}};
}

// Which kernel rows serve each op, best first.
MetricFamily kernel_family(const Service& service) {
  MetricFamily out{"tessera_kernel_info", "Kernels of this process; rank 0 is tried first.", kGauge, {}};
  for (const Json& op : Json::parse(service.describe_kernels())) {
    int rank = 0;
    for (const Json& row : op.at("rows")) {
      ClientMetric metric;
      metric.label = {{"op", op.at("op")},
                      {"kernel", row.at("name")},
                      {"device", row.at("device")},
                      {"rank", std::to_string(rank++)}};
      metric.gauge.value = 1;
      out.metric.push_back(std::move(metric));
    }
  }
  return out;
}

}  // namespace

struct Metrics::Impl {
  prometheus::Registry registry;
  prometheus::Histogram& histogram(const char* name, const char* help,
                                   const prometheus::Histogram::BucketBoundaries& bounds) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add({}, bounds);
  }

  prometheus::Histogram& first_token =
      histogram("tessera_time_to_first_token_seconds", "From acceptance to the first token.", kLatency);
  prometheus::Histogram& queued = histogram("tessera_queue_seconds", "From acceptance to the first step.", kLatency);
  prometheus::Histogram& gap = histogram("tessera_inter_token_seconds", "Between two tokens of an answer.", kGap);
  prometheus::Histogram& whole =
      histogram("tessera_request_seconds", "From acceptance to an answer's last token.", kLatency);
  prometheus::Histogram& prompt = histogram("tessera_request_prompt_tokens", "Tokens of a prompt.", kTokens);
  prometheus::Histogram& answer = histogram("tessera_request_generation_tokens", "Tokens of an answer.", kTokens);
  prometheus::Family<prometheus::Counter>& ended =
      prometheus::BuildCounter().Name("tessera_answers_total").Help("Answers, by how they ended.").Register(registry);
  prometheus::Family<prometheus::Counter>& http = prometheus::BuildCounter()
                                                      .Name("tessera_http_requests_total")
                                                      .Help("Responses, by route and status.")
                                                      .Register(registry);
  prometheus::Family<prometheus::Counter>& refused = prometheus::BuildCounter()
                                                         .Name("tessera_http_refused_total")
                                                         .Help("Requests turned away, by reason.")
                                                         .Register(registry);
  prometheus::Gauge& connections =
      prometheus::BuildGauge().Name("tessera_http_connections").Help("Open connections.").Register(registry).Add({});

  // The rate of a counter needs a value before its first event.
  Impl() {
    for (const char* reason : {"stop", "length", "cancelled", "error"}) ended.Add({{"reason", reason}});
    for (const char* reason : {"queue_full", "requests", "memory", "connections", "loading", "draining"})
      refused.Add({{"reason", reason}});
  }
};

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {}
Metrics::~Metrics() = default;

void Metrics::on_first_token(double since_submission, double queued) {
  impl_->first_token.Observe(since_submission);
  impl_->queued.Observe(queued);
}

void Metrics::on_next_token(double since_last) {
  impl_->gap.Observe(since_last);
}

void Metrics::on_end(const AnswerEnd& end) {
  const RequestResult& r = end.result;
  impl_->ended.Add({{"reason", r.failed ? "error" : finish_reason_name(end.reason)}}).Increment();
  if (r.failed || end.reason == FinishReason::kCancelled) return;
  impl_->whole.Observe(r.ended - r.created);
  impl_->prompt.Observe(static_cast<double>(r.prompt_tokens));
  impl_->answer.Observe(static_cast<double>(r.completion_tokens));
}

void Metrics::count_http(const char* route, int status) {
  impl_->http.Add({{"route", route}, {"status", std::to_string(status)}}).Increment();
}

void Metrics::count_refused(const std::string& why) {
  impl_->refused.Add({{"reason", why}}).Increment();
}

void Metrics::set_connections(int64_t open) {
  impl_->connections.Set(static_cast<double>(open));
}

std::string Metrics::text(const Service* service) const {
  std::vector<MetricFamily> families = impl_->registry.Collect();
  const bool alive = service != nullptr && service->dead().empty();
  families.push_back(family("tessera_up", "1 while the engine serves.", kGauge, alive ? 1 : 0));
  if (service != nullptr) {
    const EngineStats stats = service->stats();
    for (const EngineRow& row : kEngineRows) families.push_back(family(row.name, row.help, row.type, row.value(stats)));
    families.push_back(
        family("tessera_cache_bytes", "Memory of the cache.", kGauge, static_cast<double>(service->cache_bytes())));
    families.push_back(kernel_family(*service));
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace tessera::server
