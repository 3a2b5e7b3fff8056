// Ranks that are threads of one process. They read each other's memory between two barriers. Sums are taken in rank
// order in F32.
//
// Each communicator belongs to one thread. A rank that aborts, or whose communicator goes away while others wait for
// it, makes every call of the others throw; nobody's memory is touched any more once a call has thrown.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "parallel/communicator.h"

namespace tessera {

// One communicator a rank, to be handed to one thread each.
std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int size);

// Runs body on `size` threads, each with its rank's communicator, and joins them. The first rank whose body throws
// aborts the others; its error is thrown here as "rank 2 of 4: ...", with its code.
void run_thread_ranks(int size, const std::function<void(Communicator&)>& body);

}  // namespace tessera
