// One rank under mpirun: random calls of the MPI communicator against plain loops, a rank that gives up while the
// others wait for it, or a whole model against transformers' tokens and logits.
//
// usage: mpirun -n N mpi_program [LOST_RANK | golden FOLDER TP EP tp|dp]
#include <cstdio>
#include <cstdlib>
#include <string>

#include "api/rank_team.h"
#include "core/error.h"
#include "parallel/communicator_cases.h"
#include "parallel/mpi_communicator.h"
#include "parallel/rank_place.h"
#include "parallel/socket_channel.h"
#include "support/golden_run.h"
#include "support/rank_plans.h"

namespace {

using namespace tessera;

int run(int lost) {
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

// As the program does: rank 0 has the model, the others repeat its steps.
int run_golden(const std::string& folder, const RankPlan& plan) {
  const LoadOptions options = cpu_ranks(plan);
  if (serve_as_rank(folder, options)) return 0;
  {
    Llm llm = Llm::load(folder, options);
    expect_golden(llm, SafetensorsFile::open(folder + "/golden.safetensors"));
    std::printf("%s of %d ranks placed by %s: %s\n", name_of(plan).c_str(), llm.impl().mesh.ranks(),
                std::string(rank_place_from_env()->from).c_str(), ::testing::Test::HasFailure() ? "wrong" : "right");
  }
  return ::testing::Test::HasFailure() ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 6 && argv[1] == std::string("golden"))
      return run_golden(argv[2], {.tp = std::atoi(argv[3]), .ep = std::atoi(argv[4]), .attention = argv[5]});
    return run(argc > 1 ? std::atoi(argv[1]) : -1);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tessera: %s\n", error.what());
    std::fflush(stderr);
    std::_Exit(3);
  }
}
