#include "engine/engine.h"

#include <algorithm>
#include <random>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "engine/likelihood.h"
#include "engine/prompt_lookup.h"

namespace tessera {

// One answer that is being made.
struct Engine::Sample : Job {
  Sample(Live& owner, int number, uint64_t seed, int64_t vocab_size);
  void make_mask();
  // Tells the constraint what was chosen. False: it had failed, and the token means nothing.
  bool accept(int32_t id);

  Live& live;
  int index;
  Sampler sampler;
  std::unique_ptr<TokenConstraint> constraint;  // null: none
  // Of the next token. Empty with mask_ready: every token may come.
  std::vector<uint32_t> mask;
  size_t mask_words = 0;
  bool mask_ready = false;
  std::optional<Error> mask_error;
  RequestResult result;
  int64_t made = 0;     // tokens sampled, not all of them handed out yet
  bool awaits = false;  // the last of `tokens` stands for one that the device chooses, see Engine::foresee
  bool ended = false;   // with static batching it may go on running
};

struct Engine::Live {
  int64_t id = 0;
  Request request;
  uint64_t seed = 0;
  std::vector<std::unique_ptr<Sample>> samples;
  int open = 0;  // samples that have not ended
};

struct Engine::Row {
  Sample* sample = nullptr;
  Sample* parent = nullptr;  // of a sample that starts here
  float* logits = nullptr;   // [rows, V]; the first follows the known tokens, the others a draft token each
  int64_t rows = 1;
  std::vector<std::pair<int32_t, TokenLogprob>> tokens;  // sampled: right drafts, and one more
  bool failed = false;                 // the constraint did, see Sample::mask_error; the last token means nothing
  std::optional<FinishReason> reason;  // set when the last of them ends the sample
};

Engine::Sample::Sample(Live& owner, int number, uint64_t seed, int64_t vocab_size)
    : live(owner), index(number), sampler(owner.request.params, vocab_size, seed) {
  tokens = owner.request.prompt;
  prompt_length = static_cast<int64_t>(tokens.size());
  priority = owner.request.priority;
  sampler.observe_prompt(tokens);
  if (owner.request.constraint) constraint = owner.request.constraint->clone();
  mask_words = static_cast<size_t>((vocab_size + 31) / 32);
}

bool Engine::Sample::accept(int32_t id) {
  if (!constraint || ended) return true;
  if (mask_error) return false;
  const bool accepted = constraint->accept(id);
  TS_CHECK(accepted, "token {} was allowed by its mask and is refused", id);
  mask_ready = false;
  return true;
}

void Engine::Sample::make_mask() {
  if (mask_ready || mask_error) return;
  try {
    mask.resize(mask_words);
    if (!constraint->fill_mask(mask)) {
      mask.clear();
    } else if (std::all_of(mask.begin(), mask.end(), [](uint32_t word) { return word == 0; })) {
      mask_error.emplace(ErrorCode::kUnsupported, "the answer's grammar allows no token here");
    }
    mask_ready = true;
  } catch (const Error& e) {
    mask_error = e;
  }
}

namespace {

SchedulerOptions scheduler_options(const RunnerOptions& runner, const EngineOptions& engine) {
  return {.max_requests = runner.max_sequences,
          .max_batch_tokens = runner.max_batch_tokens,
          .max_logit_rows = runner.max_logit_rows,
          .max_context = runner.max_context,
          .max_queue = INT64_MAX,  // the inbox is where the queue is bounded
          .max_queue_tokens = INT64_MAX,
          .policy = engine.policy,
          .static_batching = engine.static_batching};
}

}  // namespace

Engine::Engine(Runner& runner, const EngineOptions& options)
    : runner_(runner), options_(options), scheduler_(runner.caches(), scheduler_options(runner.options(), options)) {}

Engine::~Engine() {
  stop();
  settle();
  deliver_rows();
  take_messages();
  end_all([&](Sample& sample) { sample.result.reason = FinishReason::kCancelled; });
}

double Engine::now() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

// Any thread
// -------------------------------------------------------------------------------------------------------------

Submission Engine::submit(Request request) {
  request.params.validate(runner_.vocab_size());
  check_token_ids(request.prompt, runner_.vocab_size());
  const auto length = static_cast<int64_t>(request.prompt.size());
  const int64_t max_context = runner_.options().max_context;
  if (length >= max_context) {
    fail(ErrorCode::kInvalidArgument,
         "the prompt has {} tokens and the context holds {}; shorten it or raise --max-context", length, max_context);
  }
  if (request.samples < 1 || request.samples > 128)
    fail(ErrorCode::kInvalidArgument, "n is {}; expected 1 to 128", request.samples);
  if (request.priority < -100 || request.priority > 100)
    fail(ErrorCode::kInvalidArgument, "priority is {}; expected -100 to 100", request.priority);
  if (!(request.timeout_seconds >= 0)) fail(ErrorCode::kInvalidArgument, "the timeout is negative");

  auto live = std::make_unique<Live>();
  live->request = std::move(request);
  live->seed = live->request.params.seed ? *live->request.params.seed
                                         : (uint64_t{std::random_device{}()} << 32 | std::random_device{}());
  live->request.params.seed.reset();  // samples get theirs one by one
  live->samples.push_back(std::make_unique<Sample>(*live, 0, live->seed, runner_.vocab_size()));
  live->open = 1;
  Sample& first = *live->samples[0];
  first.result.created = now();
  first.result.prompt_tokens = length;
  if (live->request.timeout_seconds > 0) first.deadline = first.result.created + live->request.timeout_seconds;

  std::lock_guard lock(mutex_);
  if (!dead_.empty()) fail(ErrorCode::kIo, "{}", dead_);
  if (queued_ >= options_.max_queue || queued_tokens_ + length > options_.max_queue_tokens)
    return {.status = Submitted::kQueueFull};
  ++queued_;
  queued_tokens_ += length;
  live->id = next_id_++;
  const int64_t id = live->id;
  inbox_.push_back(std::move(live));
  wake_.notify_one();
  return {.id = id};
}

void Engine::cancel(int64_t id) {
  std::lock_guard lock(mutex_);
  cancelled_.push_back(id);
  wake_.notify_one();
}

EngineStats Engine::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

std::string Engine::dead() const {
  std::lock_guard lock(mutex_);
  return dead_;
}

void Engine::on_death(std::function<void(const std::string&)> told) {
  std::string why;
  {
    std::lock_guard lock(mutex_);
    why = dead_;
    on_death_ = why.empty() ? told : nullptr;
  }
  if (!why.empty() && told) told(why);
}

void Engine::start() {
  TS_CHECK(!thread_.joinable(), "the engine runs already");
  stopping_ = false;
  thread_ = std::thread([this] { loop(); });
}

void Engine::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

void Engine::loop() {
  for (;;) {
    const bool worked = step();
    {
      std::unique_lock lock(mutex_);
      if (!worked) wake_.wait(lock, [&] { return stopping_ || !inbox_.empty() || !cancelled_.empty(); });
      if (!stopping_) continue;
    }
    return settle();
  }
}

// The engine's thread
// ----------------------------------------------------------------------------------------------------

void Engine::take_messages() {
  std::vector<std::unique_ptr<Live>> inbox;
  std::vector<int64_t> cancelled;
  {
    std::lock_guard lock(mutex_);
    inbox.swap(inbox_);
    cancelled.swap(cancelled_);
  }
  for (std::unique_ptr<Live>& live : inbox) {
    Sample& sample = *live->samples[0];
    live_.emplace(live->id, std::move(live));
    const Submitted submitted = scheduler_.submit(sample, sample.result.created);
    TS_CHECK(submitted == Submitted::kAccepted, "submit() has checked the length");
  }
  for (int64_t id : cancelled) {
    auto it = live_.find(id);
    if (it == live_.end()) continue;
    std::vector<Sample*> open = open_samples(*it->second);
    for (Sample* sample : open) {
      sample->result.reason = FinishReason::kCancelled;
      close(*sample);
    }
  }
}

std::vector<Engine::Sample*> Engine::open_samples(const Live& live) {
  std::vector<Sample*> open;
  for (const auto& sample : live.samples)
    if (!sample->ended) open.push_back(sample.get());
  return open;
}

// A GPU is never left waiting for the host: while it computes a step the next one is planned and enqueued, with the
// tokens that the first one chooses taken from where it leaves them, and the tokens of the step before are handed out.
// Only what must be known to choose the next token (a grammar's masks, penalties, drafts) has a step wait for the last
// one's end. A CPU has nothing to wait for.
bool Engine::step() {
  take_messages();
  foresee();
  if (options_.prompt_lookup > 0) draft();
  const StepPlan& plan = scheduler_.plan(now());
  for (Job* job : plan.expired) {
    Sample& sample = static_cast<Sample&>(*job);
    if (!sample.ended) fail_sample(sample, ErrorCode::kCancelled, "the request's time limit has passed");
  }
  const bool worked = !plan.items.empty() || !plan.expired.empty() || !rows_.empty() || !flight_.empty();
  if (plan.items.empty()) {
    settle();
    deliver_rows();
    buried_.clear();
  } else {
    compute(plan);
    if (!runner_.asynchronous()) deliver_rows();
    if (flight_.empty()) buried_.clear();
  }
  publish_stats(plan);
  return worked && dead_.empty();
}

// The samples of the step in flight go on with a token that is not known yet, but those that end with it for sure.
void Engine::foresee() {
  int64_t row = 0;
  for (const StepItem& item : flight_) {
    if (!item.sample) continue;
    Sample& sample = static_cast<Sample&>(*item.job);
    const int64_t from = row++;
    if (sample.state != Job::State::kRunning || sample.ended || sample.made + 1 >= budget(sample)) continue;
    sample.tokens.push_back(awaited(from));
    sample.awaits = true;
  }
}

// Whether the step after this one, which the device samples, can be planned before its tokens are known.
bool Engine::can_fly(const StepPlan& plan) const {
  if (!runner_.leads_on() || options_.static_batching || options_.prompt_lookup > 0) return false;
  return std::none_of(plan.items.begin(), plan.items.end(), [](const StepItem& item) {
    const Sample& sample = static_cast<const Sample&>(*item.job);
    return item.sample && (sample.constraint || sample.sampler.remembers());
  });
}

// Its sample has ended, with the step before or from outside, which was not known when this one was planned.
static bool gone(const StepItem& item) {
  return item.job->state == Job::State::kNew;
}

// Waits for the step in flight, and hands its tokens out while the device computes the next one. What ends with them is
// still named by that one.
void Engine::land() {
  if (flight_.empty()) return;
  const std::vector<StepItem> items = std::exchange(flight_, {});
  take_sampled(items, in_flight_ ? runner_.finish_before() : runner_.finish_sampled());
  commit(items, /*stored=*/true);
  std::erase_if(rows_, [](const Row& row) { return row.sample->ended; });
  buried_.clear();
  deliver_rows();
}

void Engine::settle() {
  try {
    land();
  } catch (const Error& e) {
    die(e);
  }
}

// Runs the plan, and meanwhile delivers the step before.
void Engine::compute(const StepPlan& plan) {
  begin_masks(plan);
  try {
    launch(plan);
    in_flight_ = true;
    if (flight_.empty()) deliver_rows();
    masks_.wait();
    const bool sampled = sample_on_device(plan);
    land();
    if (sampled && can_fly(plan)) {
      for (const StepItem& item : plan.items)
        if (item.job->state == Job::State::kRunning) scheduler_.commit(item);
      flight_ = plan.items;
    } else {
      if (sampled) {
        take_sampled(plan.items, runner_.finish_sampled());
      } else {
        build_rows(plan, runner_.finish());
        sample_rows();
      }
      commit(plan.items, /*stored=*/false);
      std::erase_if(rows_, [](const Row& row) { return row.sample->ended; });
    }
    in_flight_ = false;
  } catch (const Error& e) {
    masks_.wait();
    in_flight_ = false;
    return die(e);
  }
  for (Sample* sample : leaving_) retire(*sample);
  leaving_.clear();
  // Nobody waits for it then: who called step() until the last answer ended may use the runner.
  if (std::all_of(flight_.begin(), flight_.end(), gone)) flight_.clear();
  if (options_.static_batching) retire_batch();
}

void Engine::draft() {
  constexpr int64_t kTrial = 64;  // drafts before a request's rate of acceptance says anything
  for (Job* job : scheduler_.running_jobs()) {
    Sample& sample = static_cast<Sample&>(*job);
    const RequestResult& r = sample.result;
    const bool hopeless = r.drafted_tokens >= kTrial && r.accepted_tokens * 10 < r.drafted_tokens * 3;
    const bool parts = r.completion_tokens == 0 && sample.live.request.samples > 1;  // the others start from the prompt
    if (!sample.ended && !hopeless && !parts && sample.pending() == 1)
      look_up_draft(sample.tokens, options_.prompt_lookup, sample.draft);
  }
}

// Whether the device can choose all tokens of the step without whole rows of logits, where ranks have parts of them.
bool Engine::samples_parts(const StepPlan& plan) const {
  bool any = false;
  for (const StepItem& item : plan.items) {
    if (!item.sample) continue;
    const Sample& sample = static_cast<const Sample&>(*item.job);
    const SamplingParams& p = sample.live.request.params;
    const bool first_of_many = sample.made == 0 && sample.live.request.samples > 1;
    if (item.drafts > 0 || first_of_many || sample.sampler.max_edits() > 0 || sample.constraint) return false;
    if (!DeviceSampling::samples_parts(
            {.temperature = p.temperature, .top_p = p.top_p, .top_k = p.top_k, .logprobs = p.logprobs}))
      return false;
    any = true;
  }
  return any;
}

// How many of the best logits of each rank's part of the vocabulary are enough to sample all rows; 0: all are needed.
int64_t Engine::candidates(const StepPlan& plan) const {
  constexpr int64_t kMost = 256;  // more travel better as whole rows
  if (runner_.asynchronous()) return samples_parts(plan) ? kInParts : 0;
  int64_t most = 0;
  for (const StepItem& item : plan.items) {
    if (!item.sample) continue;
    const Sample& sample = static_cast<const Sample&>(*item.job);
    const SamplingParams& p = sample.live.request.params;
    const int64_t wanted = p.temperature == 0 ? 1 : p.top_k;
    const bool changed = sample.sampler.max_edits() > 0 || sample.constraint || p.logprobs >= 0;
    if (changed || wanted < 1 || wanted > kMost) return 0;
    most = std::max(most, wanted);
  }
  return most;
}

// Draft tokens stand behind the known ones while their step is put together.
void Engine::launch(const StepPlan& plan) {
  items_.clear();
  for (const StepItem& item : plan.items) {
    Sample& sample = static_cast<Sample&>(*item.job);
    if (sample.result.started == 0) {
      sample.result.started = now();
      sample.result.cached_tokens = sample.cached_tokens;
    }
    sample.tokens.insert(sample.tokens.end(), sample.draft.begin(),
                         sample.draft.begin() + static_cast<long>(item.drafts));
    const std::span<const int32_t> tokens(sample.tokens);
    items_.push_back({.sequence = sample.sequence.get(),
                      .tokens = tokens.subspan(static_cast<size_t>(item.begin), static_cast<size_t>(item.count)),
                      .want = !item.sample      ? WantLogits::kNone
                              : item.drafts > 0 ? WantLogits::kAll
                                                : WantLogits::kLast});
  }
  runner_.launch(items_, nullptr, candidates(plan));
  for (const StepItem& item : plan.items) {
    std::vector<int32_t>& tokens = item.job->tokens;
    tokens.resize(tokens.size() - static_cast<size_t>(item.drafts));
  }
}

// A fault of the device: every request is answered with it, and no step can run any more.
void Engine::die(const Error& e) {
  log::error("the engine stops: {}", e.what());
  std::function<void(const std::string&)> told;
  {
    std::lock_guard lock(mutex_);
    dead_ = e.what();
    told = std::move(on_death_);
  }
  for (Sample* sample : leaving_) retire(*sample);
  leaving_.clear();
  rows_.clear();
  flight_.clear();
  take_messages();
  end_all([&](Sample& sample) { set_error(sample.result, e.code(), e.what()); });
  if (told) told(e.what());
}

// Tells the device how to choose, while it computes. Drafts and a prompt's further samples need the logits here.
bool Engine::sample_on_device(const StepPlan& plan) {
  if (!runner_.asynchronous()) return false;
  samplings_.clear();
  edits_.clear();
  std::vector<size_t> ends;
  int64_t edit_count = 0;
  for (const StepItem& item : plan.items) {
    const Sample& sample = static_cast<const Sample&>(*item.job);
    if (item.sample && (item.drafts > 0 || (sample.made == 0 && sample.live.request.samples > 1))) return false;
    edit_count += item.sample ? sample.sampler.max_edits() : 0;
  }
  if (edit_count > DeviceSampling::kMaxEdits) return false;
  for (const StepItem& item : plan.items) {
    if (!item.sample) continue;
    Sample& sample = static_cast<Sample&>(*item.job);
    samplings_.push_back({.settings = sample.sampler.next_settings(edits_)});
    if (sample.constraint && !sample.ended && !sample.mask_error) samplings_.back().mask = sample.mask;
    ends.push_back(edits_.size());
  }
  const std::span<const LogitEdit> edits(edits_);
  for (size_t r = 0, begin = 0; r < ends.size(); begin = ends[r++])
    samplings_[r].edits = edits.subspan(begin, ends[r] - begin);
  runner_.sample(samplings_);
  return true;
}

void Engine::take_sampled(std::span<const StepItem> items, const SampledRows& sampled) {
  rows_.clear();
  size_t next = 0;
  for (const StepItem& item : items) {
    if (!item.sample) continue;
    const size_t r = next++;
    Sample& sample = static_cast<Sample&>(*item.job);
    if (gone(item)) continue;
    TokenLogprob report{.id = sampled.ids[r]};
    const auto logprobs = std::min<int64_t>(sample.live.request.params.logprobs, runner_.vocab_size());
    if (logprobs >= 0) report.logprob = sampled.logprobs[r];
    for (int64_t i = 0; i < logprobs; ++i) {
      const size_t at = r * kMaxSampleLogprobs + static_cast<size_t>(i);
      report.top.emplace_back(sampled.top_ids[at], sampled.top_logprobs[at]);
    }
    sample.sampler.observe(report.id);
    rows_.push_back({.sample = &sample});
    rows_.back().failed = !sample.accept(report.id);
    rows_.back().tokens.emplace_back(report.id, std::move(report));
  }
}

void Engine::build_rows(const StepPlan& plan, const Tensor& logits) {
  rows_.clear();
  const auto vocab_size = static_cast<size_t>(runner_.vocab_size());
  float* next = logits.f32();
  size_t copies = 0;
  for (const StepItem& item : plan.items) {
    Sample& sample = static_cast<Sample&>(*item.job);
    if (!item.sample) continue;
    float* const logits_of = std::exchange(next, next + static_cast<size_t>(1 + item.drafts) * vocab_size);
    if (gone(item)) continue;
    rows_.push_back({.sample = &sample, .logits = logits_of, .rows = 1 + item.drafts});
    if (sample.ended || sample.index > 0 || sample.made > 0) continue;
    // The prompt's further samples start here: each draws its own first token.
    Live& live = sample.live;
    for (int k = 1; k < live.request.samples; ++k, ++copies) {
      live.samples.push_back(
          std::make_unique<Sample>(live, k, live.seed + static_cast<uint64_t>(k), runner_.vocab_size()));
      ++live.open;
      Sample& child = *live.samples.back();
      child.result = sample.result;
      child.deadline = sample.deadline;
      rows_.push_back({.sample = &child, .parent = &sample, .logits = rows_.back().logits});
    }
  }
  if (copies == 0) return;
  copies_.resize(copies * vocab_size);  // sampling changes its row
  float* copy = copies_.data();
  for (Row& row : rows_) {
    if (row.parent == nullptr) continue;
    std::copy_n(row.logits, vocab_size, copy);
    row.logits = copy;
    copy += vocab_size;
  }
}

void Engine::begin_masks(const StepPlan& plan) {
  std::vector<Sample*> constrained;
  for (const StepItem& item : plan.items) {
    Sample& sample = static_cast<Sample&>(*item.job);
    if (item.sample && sample.constraint && !sample.ended) constrained.push_back(&sample);
  }
  if (constrained.empty()) return;
  masks_.begin([samples = std::move(constrained)] {
    for (Sample* sample : samples) sample->make_mask();
  });
}

void Engine::sample_row(Row& row) {
  const auto vocab_size = static_cast<size_t>(runner_.vocab_size());
  Sample& s = *row.sample;
  const bool report = s.live.request.params.logprobs >= 0;
  TokenConstraint* constraint = s.ended ? nullptr : s.constraint.get();
  // A draft is right when it is what would have been drawn anyway, with any sampling parameters.
  for (int64_t r = 0; r < row.rows; ++r) {
    auto& [id, logprob] = row.tokens.emplace_back();
    if (constraint) s.make_mask();
    row.failed = constraint && s.mask_error;
    if (row.failed) return;
    id = s.sampler.sample({row.logits + static_cast<size_t>(r) * vocab_size, vocab_size}, report ? &logprob : nullptr,
                          constraint ? std::span<const uint32_t>(s.mask) : std::span<const uint32_t>());
    if (!s.accept(id) || (constraint && constraint->ended())) return;
    if (r + 1 < row.rows && id != s.draft[static_cast<size_t>(r)]) break;
  }
}

void Engine::sample_rows() {
  auto sample_range = [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) sample_row(rows_[static_cast<size_t>(i)]);
  };
  runner_.thread_pool().parallel_for(static_cast<int64_t>(rows_.size()), 1, sample_range);
}

// Appends the sampled tokens and stores the step, unless it is; starts the samples that begin here, and takes those
// that end out of the next step.
void Engine::commit(std::span<const StepItem> items, bool stored) {
  auto row = rows_.begin();
  for (const StepItem& item : items) {
    if (gone(item)) continue;
    Sample& sample = static_cast<Sample&>(*item.job);
    counts_.prompt_tokens += item.sample ? item.count - item.drafts - 1 : item.count;
    if (!item.sample) {
      if (!stored) scheduler_.commit(item);
      continue;
    }
    const auto accepted = static_cast<int64_t>(row->tokens.size()) - 1;
    sample.result.drafted_tokens += item.drafts;
    sample.result.accepted_tokens += accepted;
    counts_.drafted_tokens += item.drafts;
    counts_.accepted_tokens += accepted;
    if (std::exchange(sample.awaits, false)) {
      sample.tokens.back() = row->tokens[0].first;
    } else if (sample.state == Job::State::kRunning) {  // else its pages were taken, and it ends here
      for (const auto& [id, logprob] : row->tokens)
        if (static_cast<int64_t>(sample.tokens.size()) < runner_.options().max_context) sample.tokens.push_back(id);
    }
    if (!stored) scheduler_.commit(item, accepted);
    auto next = row + 1;
    for (; next != rows_.end() && next->parent != nullptr; ++next) {
      next->sample->tokens.push_back(next->tokens[0].first);
      scheduler_.fork(*next->parent, *next->sample);
    }
    for (; row != next; ++row) find_end(*row);
  }
}

// Tokens that the sample may have.
int64_t Engine::budget(const Sample& sample) const {
  const int64_t room = runner_.options().max_context - sample.prompt_length;
  const int64_t asked = sample.live.request.params.max_tokens;
  return asked > 0 ? std::min(room, asked) : room;
}

// Cuts the row's tokens after one that ends its sample.
void Engine::find_end(Row& row) {
  Sample& sample = *row.sample;
  const Request& request = sample.live.request;
  const int64_t most = budget(sample);
  for (size_t i = 0; i < row.tokens.size() && !row.reason; ++i) {
    const int32_t id = row.tokens[i].first;
    auto ends = [&](const std::vector<int32_t>& ids) { return std::find(ids.begin(), ids.end(), id) != ids.end(); };
    ++sample.made;
    if ((!request.params.ignore_eos && ends(request.eos_ids)) || ends(request.params.stop_token_ids)) {
      row.reason = FinishReason::kStop;
    } else if (sample.made >= most) {
      row.reason = FinishReason::kLength;
    }
    if (row.reason) row.tokens.resize(i + 1);
  }
  if (!row.reason && !row.failed && sample.constraint && sample.constraint->ended()) row.reason = FinishReason::kStop;
  if ((row.reason || row.failed) && !options_.static_batching) scheduler_.remove(sample);
}

void Engine::deliver_rows() {
  for (Row& row : rows_)
    if (!row.sample->ended) deliver(row);
  rows_.clear();
}

// Hands a row's tokens to its request, until one ends it.
void Engine::deliver(Row& row) {
  Sample& sample = *row.sample;
  if (row.failed) return fail_sample(sample, sample.mask_error->code(), sample.mask_error->what());
  const Request& request = sample.live.request;
  for (const auto& [id, logprob] : row.tokens) {
    if (sample.result.completion_tokens++ == 0) sample.result.first_token = now();
    ++counts_.answer_tokens;
    bool wanted = true;
    try {
      if (request.on_token)
        wanted = request.on_token(sample.index, id, request.params.logprobs >= 0 ? &logprob : nullptr);
    } catch (const Error& e) {
      return fail_sample(sample, e.code(), e.what());
    } catch (const std::exception& e) {
      return fail_sample(sample, ErrorCode::kCancelled, e.what());
    } catch (...) {
      return fail_sample(sample, ErrorCode::kCancelled, "the receiver of the tokens failed");
    }
    if (!wanted) {
      sample.result.reason = FinishReason::kStop;
      return close(sample);
    }
  }
  if (row.reason) {
    sample.result.reason = *row.reason;
    close(sample);
  }
}

void Engine::set_error(RequestResult& result, ErrorCode code, const std::string& message) {
  result.failed = true;
  result.error_code = code;
  result.error = message;
}

void Engine::fail_sample(Sample& sample, ErrorCode code, const std::string& message) {
  set_error(sample.result, code, message);
  close(sample);
}

// Ends a sample whose result says how, and gives its pages back.
void Engine::close(Sample& sample) {
  Live& live = sample.live;
  RequestResult& result = sample.result;
  sample.ended = true;
  result.ended = now();
  result.preemptions = sample.preemptions;
  ++(result.failed ? counts_.failed : result.reason == FinishReason::kCancelled ? counts_.cancelled : counts_.finished);
  // A prompt that ends before its samples part ends for all of them.
  const int last = live.samples.size() == 1 ? live.request.samples : sample.index + 1;
  for (int k = sample.index; k < last; ++k) {
    try {
      if (live.request.on_end) live.request.on_end(k, result);
    } catch (const std::exception& e) {
      log::error("a request's end was not taken: {}", e.what());
    } catch (...) {
      log::error("a request's end was not taken");
    }
  }
  if (options_.static_batching && sample.state == Job::State::kRunning) return;  // until the batch has ended
  if (in_flight_ && sample.state == Job::State::kRunning) {
    leaving_.push_back(&sample);
  } else {
    retire(sample);
  }
}

void Engine::retire(Sample& sample) {
  if (sample.state != Job::State::kNew) scheduler_.remove(sample);
  if (--sample.live.open > 0) return;
  auto it = live_.find(sample.live.id);
  buried_.push_back(std::move(it->second));  // rows may still name it
  live_.erase(it);
}

void Engine::retire_batch() {
  std::vector<Sample*> ended;
  for (Job* job : scheduler_.running_jobs()) {
    Sample& sample = static_cast<Sample&>(*job);
    if (!sample.ended) return;
    ended.push_back(&sample);
  }
  for (auto& [id, live] : live_)
    for (auto& sample : live->samples)
      if (sample->ended && sample->state == Job::State::kWaiting) ended.push_back(sample.get());
  for (Sample* sample : ended) retire(*sample);
}

template <class F>
void Engine::end_all(F&& explain) {
  std::vector<Sample*> open;
  for (auto& [id, live] : live_)
    for (Sample* sample : open_samples(*live)) open.push_back(sample);
  for (Sample* sample : open) {
    explain(*sample);
    close(*sample);
  }
  if (options_.static_batching) retire_batch();
}

void Engine::publish_stats(const StepPlan& plan) {
  EngineStats& c = counts_;
  c.time = now();
  c.steps += !plan.items.empty();
  c.step_tokens = plan.tokens;
  c.step_requests = static_cast<int64_t>(plan.items.size());
  c.running = scheduler_.running();
  c.waiting = scheduler_.waiting();
  c.preemptions = scheduler_.counters().preemptions;
  c.swaps = scheduler_.counters().swaps;
  c.pages = c.pages_held = c.pages_cached = c.pages_peak = 0;
  c.cache = {};
  for (const PagedCache* cache : runner_.caches()) {
    c.pages += cache->pool().capacity();
    c.pages_held += cache->pool().held();
    c.pages_cached += cache->pool().cached();
    c.pages_peak += cache->pool().peak_held();
    c.cache += cache->counters();
  }
  std::lock_guard lock(mutex_);
  stats_ = c;
  queued_ = scheduler_.waiting();
  queued_tokens_ = scheduler_.waiting_tokens();
  for (const auto& live : inbox_) {
    ++queued_;
    queued_tokens_ += live->samples[0]->prompt_length;
  }
}

}  // namespace tessera
