// What a runner needs of the other ranks, and the orders that rank 0's runners give theirs. Every rank has the same
// runners with the same cache layout; rank 0 schedules, the others repeat its steps from a message that holds the
// step's sizes, whole-page copies and inputs. They sample where logits stay in parts, as rank 0 says in a second
// message.
#pragma once

#include <string>
#include <string_view>

#include "cache/cache_spec.h"
#include "engine/step_shape.h"
#include "layers/step.h"
#include "parallel/channel.h"

namespace tessera {

struct RankLinks {
  StepRanks step;
  Channel* channel = nullptr;
  int sharing_memory = 1;   // ranks whose caches lie in the same memory
  int32_t next_runner = 0;  // rank 0's: numbers of runners

  bool leads() const { return channel != nullptr && channel->rank() == 0; }
  // Groups of ranks that have sequences of their own, and this rank's.
  int groups() const { return step.mesh.split_tokens ? step.mesh.replicas() : 1; }
  int group() const { return step.mesh.split_tokens ? step.mesh.replica(step.rank) : 0; }
};

enum class OrderKind : int32_t { kMake, kDrop, kStep, kSample, kEnd };

// The head of a message from rank 0, followed by a runner's options, by settings of rows, or by a step: a GroupOrder
// for each group, then the copies and inputs of each, the last group's first.
struct Order {
  OrderKind kind = OrderKind::kStep;
  int32_t runner = 0;
  int64_t candidates = 0;
  int64_t recordable = 0;
};
struct GroupOrder {
  StepShape shape;
  int64_t copies = 0;
  int64_t input_bytes = 0;
};

// Sizes on which all ranks agree: the smallest of each.
struct CacheSizes {
  int64_t pages = 0, host_pages = 0, max_context = 0;
};
// Every rank calls it. Throws NoRunner on the others when rank 0 refuses instead.
CacheSizes agree_on(const RankLinks& links, const CacheSizes& mine);
void refuse(const RankLinks& links);
// Rank 0: the others end, all at once with this one, as communicators may want to.
void say_end(const RankLinks& links) noexcept;
struct NoRunner {};

// The keys and values that a rank keeps.
CacheSpec own_cache(CacheSpec spec, const StepRanks* ranks);

template <class T>
void append_bytes(std::string& message, const T& value) {
  message.append(reinterpret_cast<const char*>(&value), sizeof value);
}

}  // namespace tessera
