// What launch_test and the MPI test start: local ranks that exchange messages and say what they saw.
//
// usage: rank_program RANKS [STEPS]: starts RANKS ranks of itself, each doing STEPS steps (endless when 0)
//        rank_program mpi: one of the ranks of mpirun
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/error.h"
#include "parallel/launch.h"
#include "parallel/rank_place.h"
#include "parallel/socket_channel.h"

namespace {

volatile sig_atomic_t asked = 0;

int run_rank(const tessera::RankPlace& place, long steps) {
  using namespace tessera;
  signal(SIGTERM, [](int) { asked = 1; });
  std::unique_ptr<Channel> channel = make_socket_channel(place, {.program = "rank_program", .silence_seconds = 5});
  // The test reads who is who.
  exchange_all(*channel, "here");
  if (place.rank == 0) std::printf("ready\n"), std::fflush(stdout);
  std::string message;
  for (long step = 0; steps == 0 || step < steps; ++step) {
    if (place.rank == 0) {
      if (asked) break;
      channel->send(std::to_string(step));
      for (int r = 1; r < place.size; ++r)
        if (!channel->receive(r, message)) return 1;
    } else {
      if (!channel->receive(0, message)) break;
      channel->send(message);
    }
    if (steps == 0) usleep(200);
  }
  if (place.rank == 0) std::printf("done\n");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const long steps = argc > 2 ? std::atol(argv[2]) : 0;
    if (std::optional<tessera::RankPlace> place = tessera::rank_place_from_env()) return run_rank(*place, steps);
    return tessera::launch_local_ranks(argc > 1 ? std::atoi(argv[1]) : 2, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tessera: %s\n", error.what());
    return 1;
  }
}
