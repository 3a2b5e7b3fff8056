// Experts that stay in host memory, or in their files, while the rest of the model is on a device. Their op is a row of
// the choice table: hidden states and the router's choice travel to the host, its kernels compute, the answer travels
// back, all in the order of the device's stream, so that a whole step can still be one recorded graph.
//
// Used by the thread of the context; kernels that are attached to it must not outlive it.
#pragma once

#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "core/arena.h"
#include "core/device_context.h"
#include "engine/expert_stream.h"
#include "engine/side_thread.h"
#include "kernels/table.h"

namespace tessera {

// One layer's. The weights are views of host memory; what is `on_disk` is read ahead, what is not has been read.
struct HostLayer {
  Weight gate_up, down;
  bool on_disk = false;
};

class HostExperts {
 public:
  // `kernels` has rows for the host; `layers` in the order in which a step meets them. All must outlive the object, and
  // `pool` is its alone while steps run.
  HostExperts(DeviceContext& context, ThreadPool& pool, const Kernels& kernels, std::vector<HostLayer> layers);
  ~HostExperts();
  HostExperts(const HostExperts&) = delete;

  // Of a GPU: steps of many tokens move the experts there instead.
  void stream_with(std::unique_ptr<ExpertStream> stream) { stream_ = std::move(stream); }

  // Puts the rows before all others. They take weights that are `hosted`.
  void attach(Kernels& kernels);

  // Reads what is not on disk into memory and maps it, with all threads. Throws kIo when a file is shorter than it was.
  void populate();

  // Pinned buffers and workspace; taken when a size of step comes for the first time.
  int64_t host_bytes() const { return host_bytes_; }

 private:
  struct Call;
  // Buffers for steps up to a size; kept, since graphs name them.
  struct Room {
    int64_t in_bytes = 0, out_bytes = 0, workspace_bytes = 0;
    char *in = nullptr, *out = nullptr;
    Arena workspace_arena;
    void* workspace = nullptr;
  };
  // Where the op's inputs lie in device memory: one copy takes them all when they lie close together.
  struct Incoming {
    const char* from = nullptr;  // null: three copies
    int64_t bytes = 0;
    int64_t x = 0, indices = 0, weights = 0;  // offsets on the host
  };
  using Key = std::tuple<const void*, int64_t, DType, int64_t, int64_t, int64_t>;

  static Incoming incoming(const MoeArgs& a);
  Verdict supports(const MoeArgs& a) const;
  void launch(const MoeArgs& a);
  Call& call_for(const MoeArgs& a, const Incoming& in);
  Room& room_for(const MoeArgs& a, int64_t in_bytes, const KernelRow<MoeArgs>& row);
  void compute(const Call& call);
  void read_ahead(const Call& call);

  DeviceContext& context_;
  ThreadPool& pool_;
  OpTable<MoeArgs> moe_;
  std::vector<HostLayer> layers_;
  std::map<const void*, size_t> layer_of_;       // by gate_up's values
  std::vector<std::vector<int32_t>> last_used_;  // experts of each layer, by the last step
  std::vector<std::unique_ptr<Room>> rooms_;
  std::map<Key, std::unique_ptr<Call>> calls_;
  int64_t host_bytes_ = 0;
  std::unique_ptr<ExpertStream> stream_;  // or null
  SideThread roomy_;                      // computes where the driver's thread has too small a stack
  SideThread ahead_;                      // asks for the next layer's pages
};

}  // namespace tessera
