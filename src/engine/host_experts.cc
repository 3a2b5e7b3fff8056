#include "engine/host_experts.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>

#include "core/error.h"
#include "loading/parallel_tasks.h"
#include "loading/prefetch.h"

namespace tessera {

namespace {

constexpr int64_t kAlign = 256;
// The CPU's product kernels keep 0.7 MB on the stack of whoever takes part.
constexpr size_t kRoomyStack = size_t{2} << 20;

int64_t aligned(int64_t bytes) {
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

// The same args as the host's kernels see them.
MoeArgs on_host(const MoeArgs& a) {
  MoeArgs h = a;
  for (Tensor* t : {&h.x, &h.indices, &h.weights, &h.out}) t->device = {};
  h.gate_up.hosted = h.down.hosted = false;
  return h;
}

size_t stack_of_this_thread() {
  pthread_attr_t attributes;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0) return 0;
  size_t bytes = 0;
  pthread_attr_getstacksize(&attributes, &bytes);
  pthread_attr_destroy(&attributes);
  return bytes;
}

bool has_roomy_stack() {
  thread_local const bool roomy = stack_of_this_thread() >= kRoomyStack;
  return roomy;
}

uintptr_t page_bytes() {
  static const auto bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

// Whole pages of [begin, begin + bytes).
void advise(const void* begin, int64_t bytes, int advice) {
  const auto first = reinterpret_cast<uintptr_t>(begin) / page_bytes() * page_bytes();
  const auto end = reinterpret_cast<uintptr_t>(begin) + static_cast<uintptr_t>(bytes);
  madvise(reinterpret_cast<void*>(first), end - first, advice);  // a hint
}

// Of one expert.
void will_need(const Weight& w, int64_t expert) {
  for (const Tensor& t : {w.values, w.scales}) {
    if (!t.defined()) continue;
    const int64_t bytes = t.bytes() / w.experts;
    advise(t.as<char>() + expert * bytes, bytes, MADV_WILLNEED);
  }
}

void will_need(const HostLayer& layer, const std::vector<int32_t>& experts) {
  for (int32_t e : experts) will_need(layer.gate_up, e), will_need(layer.down, e);
}

}  // namespace

struct HostExperts::Call final : HostCall {
  explicit Call(HostExperts& o) : owner(o) {}
  void run() override { owner.compute(*this); }

  HostExperts& owner;
  size_t layer = 0;
  MoeArgs args;  // in host memory
  const KernelRow<MoeArgs>* row = nullptr;
  Room* room = nullptr;
};

HostExperts::HostExperts(DeviceContext& context, ThreadPool& pool, const Kernels& kernels,
                         std::vector<HostLayer> layers)
    : context_(context), pool_(pool), moe_(kernels.moe), layers_(std::move(layers)), last_used_(layers_.size()) {
  for (size_t i = 0; i < layers_.size(); ++i) layer_of_[layers_[i].gate_up.values.data] = i;
}

HostExperts::~HostExperts() {
  try {
    context_.synchronize();
  } catch (const Error&) {  // whoever waited for it has heard
  }
  ahead_.wait();
  for (const std::unique_ptr<Room>& room : rooms_) context_.release_host(room->in), context_.release_host(room->out);
}

void HostExperts::attach(Kernels& kernels) {
  kernels.moe.rows.insert(kernels.moe.rows.begin(),
                          {.name = "moe_host",
                           .device = context_.device().type,
                           .summary = "experts in host memory, computed there by the CPU's rows in stream order",
                           .supports = [this](const MoeArgs& a) { return supports(a); },
                           .workspace = nullptr,
                           .launch = [this](const MoeArgs& a, Stream&) { launch(a); }});
  if (!stream_) return;
  kernels.moe.rows.insert(kernels.moe.rows.begin(),
                          {.name = "moe_host_moved",
                           .device = context_.device().type,
                           .summary = "experts in host memory that travel to the GPU for a step of many tokens",
                           .supports =
                               [this](const MoeArgs& a) {
                                 if (!a.gate_up.hosted || !a.down.hosted)
                                   return Verdict{"the experts are not kept in host memory"};
                                 return stream_->supports(a);
                               },
                           .workspace = [this](const MoeArgs& a) { return stream_->workspace(a); },
                           .launch = [this](const MoeArgs& a, Stream& stream) { stream_->run(a, stream); },
                           .varies = true});
}

Verdict HostExperts::supports(const MoeArgs& a) const {
  if (!a.gate_up.hosted || !a.down.hosted) return {"the experts are not kept in host memory"};
  if (moe_.choose(on_host(a)) == nullptr) return {"no kernel of the CPU accepts them"};
  return kAccepted;
}

HostExperts::Incoming HostExperts::incoming(const MoeArgs& a) {
  const char *x = a.x.as<char>(), *indices = a.indices.as<char>(), *weights = a.weights.as<char>();
  const char* begin = std::min({x, indices, weights});
  const char* end = std::max({x + a.x.bytes(), indices + a.indices.bytes(), weights + a.weights.bytes()});
  const int64_t sum = a.x.bytes() + a.indices.bytes() + a.weights.bytes();
  // The router's logits lie between them. A copy more costs what 100 KB cost.
  if (end - begin <= 2 * sum + 4096) return {begin, end - begin, x - begin, indices - begin, weights - begin};
  const int64_t second = aligned(a.x.bytes()), third = second + aligned(a.indices.bytes());
  return {nullptr, third + a.weights.bytes(), 0, second, third};
}

HostExperts::Room& HostExperts::room_for(const MoeArgs& a, int64_t in_bytes, const KernelRow<MoeArgs>& row) {
  const int64_t workspace = row.workspace ? row.workspace(a) : 0;
  for (const std::unique_ptr<Room>& room : rooms_)
    if (room->in_bytes >= in_bytes && room->out_bytes >= a.out.bytes() && room->workspace_bytes >= workspace)
      return *room;
  TS_CHECK(!context_.recording(), "a step is run before it is recorded");
  const auto tokens = a.x.dim(0), most = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(tokens)));
  auto scaled = [&](int64_t bytes) { return aligned((bytes + tokens - 1) / tokens * most); };
  auto room = std::make_unique<Room>();
  room->in_bytes = scaled(in_bytes) + 4096;
  room->out_bytes = scaled(a.out.bytes());
  room->workspace_bytes = scaled(workspace) + (int64_t{1} << 16);
  room->in = static_cast<char*>(context_.allocate_host(room->in_bytes));
  room->out = static_cast<char*>(context_.allocate_host(room->out_bytes));
  room->workspace_arena = Arena(room->workspace_bytes + kAlign);
  room->workspace = room->workspace_arena.allocate(room->workspace_bytes);
  host_bytes_ += room->in_bytes + room->out_bytes + room->workspace_bytes;
  rooms_.push_back(std::move(room));
  return *rooms_.back();
}

HostExperts::Call& HostExperts::call_for(const MoeArgs& a, const Incoming& in) {
  std::unique_ptr<Call>& call = calls_[{a.gate_up.values.data, a.x.dim(0), a.x.dtype, in.x, in.indices, in.weights}];
  if (call) return *call;
  call = std::make_unique<Call>(*this);
  call->args = on_host(a);
  call->layer = layer_of_.at(a.gate_up.values.data);
  call->row = moe_.choose(call->args);
  TS_CHECK(call->row != nullptr);
  call->room = &room_for(call->args, in.bytes, *call->row);
  char* block = call->room->in;
  call->args.x.data = block + in.x;
  call->args.indices.data = block + in.indices;
  call->args.weights.data = block + in.weights;
  call->args.out.data = call->room->out;
  return *call;
}

void HostExperts::launch(const MoeArgs& a) {
  if (a.x.dim(0) == 0) return;
  const Incoming in = incoming(a);
  Call& call = call_for(a, in);
  if (in.from != nullptr) {
    context_.to_host(call.room->in, in.from, in.bytes);
  } else {
    context_.to_host(call.args.x.data, a.x.data, a.x.bytes());
    context_.to_host(call.args.indices.data, a.indices.data, a.indices.bytes());
    context_.to_host(call.args.weights.data, a.weights.data, a.weights.bytes());
  }
  context_.call_on_host(call);
  context_.to_device(a.out.data, call.args.out.data, a.out.bytes());
}

// On the driver's thread.
void HostExperts::compute(const Call& call) {
  read_ahead(call);
  auto work = [&] {
    Stream stream{.pool = &pool_, .workspace = call.room->workspace};
    call.row->launch(call.args, stream);
  };
  if (has_roomy_stack()) return work();
  std::exception_ptr thrown;
  roomy_.begin([&] {
    try {
      work();
    } catch (...) {
      thrown = std::current_exception();
    }
  });
  roomy_.wait();
  if (thrown) std::rethrow_exception(thrown);
}

// Asks for the pages of this layer's experts, which are now known, all at once; and beside the computing for the next
// layer's: the whole of it when a step of so many tokens will want most of it, else what the last step used.
void HostExperts::read_ahead(const Call& call) {
  const size_t next = (call.layer + 1) % layers_.size();
  const HostLayer &layer = layers_[call.layer], &after = layers_[next];
  if (!layer.on_disk && !after.on_disk) return;
  const int64_t experts = layer.gate_up.experts, slots = call.args.indices.numel();
  std::vector<int32_t> used(call.args.indices.i32(), call.args.indices.i32() + slots);
  std::sort(used.begin(), used.end());
  used.erase(std::unique(used.begin(), used.end()), used.end());
  std::erase_if(used, [&](int32_t e) { return e < 0 || e >= experts; });
  if (layer.on_disk) will_need(layer, used);
  last_used_[call.layer] = std::move(used);
  if (!after.on_disk || next == call.layer) return;
  ahead_.wait();
  if (slots >= experts) {
    ahead_.begin([&after] {
      for (const Weight* w : {&after.gate_up, &after.down})
        for (const Tensor& t : {w->values, w->scales})
          if (t.defined()) advise(t.data, t.bytes(), MADV_WILLNEED);
    });
  } else {
    ahead_.begin([&after, experts_before = last_used_[next]] { will_need(after, experts_before); });
  }
}

void HostExperts::populate() {
  constexpr int64_t kPiece = int64_t{32} << 20;
  struct Piece {
    char* begin;
    int64_t bytes;
  };
  std::vector<Piece> pieces;
  for (const HostLayer& layer : layers_) {
    if (layer.on_disk) continue;
    for (const Tensor& t : {layer.gate_up.values, layer.gate_up.scales, layer.down.values, layer.down.scales}) {
      if (!t.defined()) continue;
      const int64_t inside = static_cast<int64_t>(reinterpret_cast<uintptr_t>(t.data) % page_bytes());
      for (int64_t at = -inside; at < t.bytes(); at += kPiece)
        pieces.push_back({t.as<char>() + at, std::min(kPiece, t.bytes() - at)});
    }
  }
  parallel_tasks(pool_, static_cast<int64_t>(pieces.size()), [&](int64_t i) {
    const Piece& p = pieces[static_cast<size_t>(i)];
    populate_pages(p.begin, p.bytes, "a file with experts");
  });
}

}  // namespace tessera
