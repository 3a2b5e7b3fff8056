// The channel between processes: TCP from every rank to rank 0, one connection for messages and one that is watched by
// a thread of its own for heartbeats, aborts and ends.
#pragma once

#include <memory>
#include <string>

#include "parallel/channel.h"
#include "parallel/rank_place.h"

namespace tessera {

// What must be alike on all ranks, and how long to wait.
struct ChannelTerms {
  std::string program;       // name and version
  uint64_t config_hash = 0;  // of the model's config, the plan and every option that decides what a step does
  double join_seconds = 120;
  double heartbeat_seconds = 0.5;
  double silence_seconds = 10;  // without a heartbeat: the rank hangs, or its host is gone
};

// Meets the other ranks. Throws kIo or kInvalidArgument, on every rank that got as far as rank 0, when one does not
// join in time or was started with other terms.
std::unique_ptr<Channel> make_socket_channel(const RankPlace& place, const ChannelTerms& terms);

}  // namespace tessera
