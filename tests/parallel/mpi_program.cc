// One rank under mpirun: random calls of the MPI communicator against plain loops, or a rank that gives up while the
// others wait for it.
//
// usage: mpirun -n N mpi_program [LOST_RANK]
#include <cstdio>
#include <cstdlib>
#include <string>

#include "core/error.h"
#include "parallel/communicator_cases.h"
#include "parallel/mpi_communicator.h"
#include "parallel/rank_place.h"
#include "parallel/socket_channel.h"

namespace {

int run(int lost) {
  using namespace tessera;
  const std::optional<RankPlace> place = rank_place_from_env();
  if (!place) fail(ErrorCode::kInvalidArgument, "start it with mpirun");
  std::unique_ptr<Channel> channel = make_socket_channel(*place, {.program = "mpi_program"});
  std::unique_ptr<Communicator> c = make_mpi_communicator(*channel);
  if (lost >= 0) {
    if (c->rank() == lost) {
      c->abort("gives up");
      c->check();
    }
    for (;;) c->barrier();
  }
  std::unique_ptr<Communicator> pairs = c->split(c->rank() / 2);
  tessera::testing::random_calls(*c, 3, 150);
  tessera::testing::random_calls(*pairs, 4, 50);
  if (::testing::Test::HasFailure()) return 1;
  c->barrier();
  std::printf("rank %d of %d: right\n", c->rank(), c->size());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc > 1 ? std::atoi(argv[1]) : -1);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tessera: %s\n", error.what());
    std::fflush(stderr);
    std::_Exit(3);
  }
}
