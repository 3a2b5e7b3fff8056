#include "tessera/llm.h"

#include <algorithm>
#include <exception>
#include <filesystem>
#include <future>

#include "api/answer_text.h"
#include "api/describe.h"
#include "api/device_plan.h"
#include "api/generation_config.h"
#include "api/hub_layers.h"
#include "api/llm_impl.h"
#include "api/mxfp4_fallback.h"
#include "core/error.h"
#include "core/log.h"
#include "engine/likelihood.h"
#include "engine/placement.h"
#include "hub/resolve.h"
#include "models/registry.h"

namespace tessera {

namespace {

// About 2 ms: workers must not fall asleep between two layers of a step, nor between two steps.
constexpr int kHostSpins = 40000;

// Ranks share the cores.
int pool_threads(const LoadOptions& o) {
  return threads_of_rank(o.threads, std::max({o.tp, o.ep, 1}));
}

}  // namespace

Llm::Impl::Impl(const std::string& folder, const LoadOptions& load_options)
    : options((init_logging(), load_options)), pool(pool_threads(options)), checkpoint(Checkpoint::open(folder)) {
  // Starting a GPU and reading a big tokenizer.json each take as long as much of the rest, so they go beside it.
  std::future<std::unique_ptr<DeviceContext>> starting =
      std::async(std::launch::async, [&] { return context_of_rank(options, options.device); });
  std::future<std::optional<Tokenizer>> reading = std::async(std::launch::async, [&]() -> std::optional<Tokenizer> {
    const std::string path = folder + "/tokenizer.json";
    if (!std::filesystem::exists(path)) return std::nullopt;
    return Tokenizer::from_file(path);
  });
  dtype = resolve_dtype(options.dtype, checkpoint.config());
  LoadSettings settings{.dtype = dtype,
                        .dequantize = options.dequantize,
                        .arranged_cache = options.arranged_cache,
                        .on_progress = options.on_load};
  if (options.device == "auto" && has_cuda_code()) context = starting.get();
  settings.deferred = context ? context->device().type == DeviceType::kCuda : options.device.starts_with("cuda");
  if (places_experts() && options.dequantize) settings.deferred = false;  // the host has the expanded form too
  if (options.tp != 0 || options.ep != 0) {
    if (!context) context = starting.get();
    WeightPlan whole;
    const std::unique_ptr<Model> shapes = make_model(checkpoint.config());
    shapes->declare(whole);
    const bool cuda = context->device().type == DeviceType::kCuda;
    mesh = resolve_mesh(options, checkpoint, whole, cuda);
    team = RankTeam::start(folder, options, mesh, *context);
    settings.mesh = &mesh;
  }
  WeightPlan plan = load_weights(settings);
  if (!context) context = starting.get();
  kernels = Kernels::builtin(cpu_isa_from_env()).for_capability(context->info().capability);
  check_dense();
  if (context->device().type == DeviceType::kCuda && !team) expand_where_needed(plan);
  if (places_experts()) place_experts(plan);
  if (context->device().type == DeviceType::kCuda) move_weights(plan);
  options.on_load = nullptr;  // of the caller, who may be gone later
  if (!options.use_kernels.empty()) use_hub_kernels(kernels, options, *context);
  if (host_experts) host_experts->attach(kernels);
  eos_ids = eos_from_config(checkpoint.generation_config(), checkpoint.config(), model->info().vocab_size);
  int64_t length = std::min<int64_t>(model->info().max_position_embeddings, 131072);
  if (options.max_context < 0)
    fail(ErrorCode::kInvalidArgument, "max_context is {}; expected 0 or more", options.max_context);
  if (options.max_context > model->info().max_position_embeddings) {
    fail(ErrorCode::kInvalidArgument, "max_context is {}, more than the {} this model was made for",
         options.max_context, model->info().max_position_embeddings);
  }
  if (options.max_context > 0) length = options.max_context;
  if (options.cache_memory < 0)
    fail(ErrorCode::kInvalidArgument, "cache_memory is {}; expected 0 or more", options.cache_memory);
  int64_t mapped_bytes = 0;
  for (const LoadedRow& row : rows) mapped_bytes += row.mapped ? row.memory_bytes : 0;
  run_options = {.dtype = dtype,
                 .cache_dtype = resolve_cache_dtype(options.cache_dtype),
                 .max_context = length,
                 .max_batch_tokens = std::min(options.max_batch_tokens, length),
                 .page_size = options.page_size,
                 .ignore_window = options.ignore_window,
                 .cache_bytes = options.cache_memory,
                 .fit_context = options.max_context == 0 && options.cache_memory == 0,
                 .mapped_bytes = mapped_bytes};
  if (options.own_cache) runner();
  tokenizer = reading.get();
  log::info("{}: {} layers, {} threads, activations {}", model->info().architecture, model->info().num_hidden_layers,
            pool.size(), dtype_name(dtype));
}

Runner& Llm::Impl::runner() {
  if (!own_runner) {
    own_runner = std::make_unique<Runner>(*model, kernels, pool, *context, run_options, links());
    own_engine = std::make_unique<Engine>(*own_runner, EngineOptions{});
  }
  return *own_runner;
}

Engine& Llm::Impl::engine() {
  runner();
  return *own_engine;
}

WeightPlan Llm::Impl::load_weights(const LoadSettings& settings) {
  model = make_model(checkpoint.config());
  WeightPlan plan;
  model->declare(plan);
  rows = checkpoint.load(plan, settings, pool);
  return plan;
}

ArrangeOptions Llm::Impl::arrangement() const {
  return {.activations = dtype,
          .capability = context->info().capability,
          .fp8 = options.dense == "fp8",
          .expand = options.dequantize};
}

// Where the GPU has no kernel for MXFP4.
void Llm::Impl::expand_where_needed(const WeightPlan& plan) {
  if (options.dequantize) return;
  const std::string refusal = mxfp4_refusal(plan, arrangement(), kernels, context->device());
  if (refusal.empty()) return;
  const DeviceInfo info = context->info();
  Mxfp4Fallback f{.device = info.name,
                  .capability = info.capability,
                  .refusal = refusal,
                  .free_bytes = info.free_bytes,
                  .allowed = options.fallback};
  for (const LoadedRow& row : rows) f.mxfp4_bytes += row.memory_bytes;
  std::vector<LoadedRow> expanded = checkpoint.forecast(plan, {.dtype = dtype, .dequantize = true, .deferred = true});
  for (const LoadedRow& row : expanded) f.bf16_bytes += row.memory_bytes;
  log::warn("{}", expand_mxfp4(f));
  options.dequantize = true;
  rows = std::move(expanded);
}

void Llm::Impl::check_dense() const {
  if (options.dense != "auto" && options.dense != "fp8")
    fail(ErrorCode::kInvalidArgument, "dense is \"{}\"; expected auto or fp8", options.dense);
  if (options.dense == "fp8" && (context->device().type != DeviceType::kCuda || dtype != DType::kBF16)) {
    fail(ErrorCode::kUnsupported, "--dense fp8 needs a GPU and bfloat16 activations; this is {} with {}",
         context->info().name, dtype_name(dtype));
  }
}

void Llm::Impl::move_weights(const WeightPlan& plan) {
  PlacementReport report;
  auto read = [this](const void* source, int64_t bytes, char* to) { checkpoint.read(source, bytes, to); };
  device_weights =
      place_weights(plan, arrangement(), *context, pool, read, &report, /*preallocate=*/true, options.on_load);
  log::info("{:.2f} GB of weights in {:.2f} s ({:.1f} GB/s), {:.2f} GiB on the device",
            static_cast<double>(report.bytes) * 1e-9, report.seconds,
            static_cast<double>(report.bytes) * 1e-9 / report.seconds,
            static_cast<double>(report.device_bytes) / (int64_t{1} << 30));
}

bool Llm::Impl::places_experts() const {
  if (options.device_map.empty() && options.cpu_moe == 0) return false;
  if (options.cpu_moe < 0) fail(ErrorCode::kInvalidArgument, "cpu_moe is {}; expected 0 or more", options.cpu_moe);
  if (team || options.tp != 0 || options.ep != 0) {
    fail(ErrorCode::kUnsupported,
         "--device-map and --cpu-moe are for one device; leave out --tp and --ep, or give the ranks all of the model");
  }
  return true;
}

// Plans, and marks the rows that stay. The weights have been loaded, which on a CPU is mapped.
void Llm::Impl::place_experts(WeightPlan& plan) {
  const bool cuda = context->device().type == DeviceType::kCuda;
  // One core is left to the thread that waits for the device.
  if (cuda)
    host_pool =
        std::make_unique<ThreadPool>(options.threads > 0 ? pool.size() : std::max(1, pool.size() - 1), kHostSpins);
  ThreadPool& threads = cuda ? *host_pool : pool;
  const std::string& folder = checkpoint.folder();
  DevicePlan chosen = plan_devices(folder, device_plan_request(options, dtype, context.get(), folder));
  measure_rates(chosen, context.get(), folder, threads);
  const std::string text = device_plan_text(chosen);
  options.on_plan ? options.on_plan(text) : log::info("{}", text);
  if (!chosen.offloads()) return;
  device_map = chosen.map;
  if (cuda) options.max_batch_tokens = std::max(options.max_batch_tokens, kStreamChunk);
  plan.keep_on_host([&](const WeightRow& row) {
    return is_layers_expert(row) && device_map[static_cast<size_t>(layer_of_weight(row.name))] != Place::kDevice;
  });
  std::vector<Weight*> staying;
  for (const WeightRow& row : plan.rows())
    if (row.on_host && row.weight) staying.push_back(row.weight);
  checkpoint.make_deferred(staying, pool);
  mark_hosted(plan);
  make_host_experts(plan, device_map);
}

void Llm::Impl::make_host_experts(const WeightPlan& plan, const DeviceMap& map) {
  std::vector<HostLayer> layers(map.size());
  for (const WeightRow& row : plan.rows()) {
    if (!row.on_host || !row.weight) continue;
    const auto layer = static_cast<size_t>(layer_of_weight(row.name));
    (row.inner == ExpertInner::kColumns ? layers[layer].down : layers[layer].gate_up) = *row.weight;
    layers[layer].on_disk = map[layer] == Place::kDisk;
  }
  std::erase_if(layers, [](const HostLayer& layer) { return !layer.gate_up.defined(); });
  const bool moves = host_pool != nullptr;
  int64_t largest = 0, biases = 0;
  for (const HostLayer& layer : layers)
    if (moves)
      largest = std::max(largest, cuda_arranged_bytes(layer.gate_up, arrangement()).bytes +
                                      cuda_arranged_bytes(layer.down, arrangement()).bytes);
  host_experts = std::make_unique<HostExperts>(*context, host_pool ? *host_pool : pool, kernels, std::move(layers));
  if (!moves) return;
  host_experts->populate();
  for (const WeightRow& row : plan.rows())
    if (row.on_host && row.tensor) biases = std::max(biases, row.tensor->bytes() + 512);
  auto read = [this](const void* source, int64_t bytes, char* to) { checkpoint.read(source, bytes, to); };
  host_experts->stream_with(
      std::make_unique<ExpertStream>(*context, *host_pool, kernels, arrangement(), read, largest + 2 * biases));
}

const Tokenizer& Llm::Impl::text() const {
  if (!tokenizer) {
    fail(ErrorCode::kNotFound,
         "{}/tokenizer.json is missing; download it with the model, or give token ids instead of text",
         checkpoint.folder());
  }
  return *tokenizer;
}

Generation Llm::Impl::generate(const std::vector<int32_t>& prompt, const SamplingParams& params,
                               const TextCallback& on_text, const TokenCallback& on_token) {
  params.validate(model->info().vocab_size);
  AnswerText answer(tokenizer ? &*tokenizer : nullptr, params.stop, on_text);
  cancelled.store(false, std::memory_order_relaxed);
  std::optional<RequestResult> end;
  std::exception_ptr thrown;  // by the caller's callbacks
  Engine& engine = this->engine();
  const Submission submission = engine.submit({.prompt = prompt,
                                               .params = params,
                                               .eos_ids = eos_ids,
                                               .on_token =
                                                   [&](int, int32_t id, const TokenLogprob* logprob) {
                                                     try {
                                                       if (on_token) on_token(id);
                                                       return answer.push(id, logprob);
                                                     } catch (...) {
                                                       thrown = std::current_exception();
                                                       return false;
                                                     }
                                                   },
                                               .on_end = [&](int, const RequestResult& result) { end = result; }});
  while (!end) {
    if (cancelled.exchange(false, std::memory_order_relaxed)) engine.cancel(submission.id);
    engine.step();
  }
  if (thrown) std::rethrow_exception(thrown);
  if (end->failed) throw Error(end->error_code, end->error);
  return answer.finish(*end);
}

Llm::Llm(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Llm::Llm(Llm&&) noexcept = default;
Llm& Llm::operator=(Llm&&) noexcept = default;
Llm::~Llm() = default;

Llm Llm::load(const std::string& model, const LoadOptions& options) {
  return Llm(std::make_unique<Impl>(hub::locate_model(model, hub::Need::kModel), options));
}

std::vector<int32_t> Llm::encode(std::string_view text, bool parse_special, bool add_special) const {
  return impl_->text().encode(text, {.add_special_tokens = add_special, .parse_special = parse_special});
}

std::string Llm::decode(const std::vector<int32_t>& ids, bool skip_special) const {
  return impl_->text().decode(ids, skip_special);
}

SamplingParams Llm::default_sampling() const {
  return sampling_from_config(impl_->checkpoint.generation_config());
}

Generation Llm::generate(const std::vector<int32_t>& prompt, const SamplingParams& params,
                         const TextCallback& on_text) {
  return impl_->generate(prompt, params, on_text, {});
}

Generation Llm::generate(std::string_view prompt, const SamplingParams& params, const TextCallback& on_text) {
  return generate(impl_->text().encode(prompt, {.add_special_tokens = true, .parse_special = true}), params, on_text);
}

double Llm::negative_log_likelihood(const std::vector<int32_t>& ids) {
  return tessera::negative_log_likelihood(impl_->runner(), ids);
}

void Llm::cancel() noexcept {
  impl_->cancelled.store(true, std::memory_order_relaxed);
}

int64_t Llm::vocab_size() const {
  return impl_->model->info().vocab_size;
}
int64_t Llm::max_context() const {
  return impl_->own_runner ? impl_->own_runner->options().max_context : impl_->run_options.max_context;
}

std::string Llm::describe() const {
  Json out = describe_model(impl_->checkpoint, *impl_->model, impl_->rows, impl_->dtype, impl_->options.ignore_window,
                            impl_->run_options.cache_dtype);
  out["max_context"] = max_context();
  out["memory"]["cache_bytes"] = impl_->runner().memory().cache_bytes;
  out["memory"]["scratch_bytes"] = impl_->runner().memory().scratch_bytes;
  return out.dump();
}

std::string Llm::explain_kernels(int64_t tokens, int64_t sequences) const {
  if (sequences < 1 || tokens < sequences || tokens > (1 << 20)) {
    fail(ErrorCode::kInvalidArgument,
         "{} tokens in {} sequences: expected 1 to 1048576 tokens, at least one a sequence", tokens, sequences);
  }
  Json out = Json::array();
  for (const KernelChoice& choice : impl_->runner().explain(tokens, sequences)) {
    Json refused = Json::array();
    for (const auto& [row, why] : choice.refused) refused.push_back({{"row", row}, {"why", why}});
    out.push_back({{"op", choice.op}, {"problem", choice.problem}, {"row", choice.row}, {"refused", refused}});
  }
  return out.dump();
}

std::string Llm::describe_kernels() const {
  return describe_kernel_table(impl_->kernels).dump();
}

}  // namespace tessera
