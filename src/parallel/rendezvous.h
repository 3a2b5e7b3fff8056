// How ranks that are processes find each other: all connect to rank 0, which compares what they were started with.
#pragma once

#include <memory>
#include <vector>

#include "parallel/socket.h"
#include "parallel/socket_channel.h"

namespace tessera {

struct Connections {
  std::unique_ptr<FrameSocket> messages, watch;
};

// Indexed by rank: rank 0 gets those of all others, they get rank 0's. Throws as make_socket_channel does.
std::vector<Connections> meet_ranks(const RankPlace& place, const ChannelTerms& terms);

}  // namespace tessera
