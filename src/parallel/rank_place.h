// Which rank this process is, and where rank 0 listens: from the variables of torchrun, of Open MPI and MPICH's
// launchers, or of Slurm.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace tessera {

struct RankPlace {
  int rank = 0;
  int size = 1;
  int local_rank = 0;          // among the ranks of this host: which GPU it takes
  std::string address;         // of rank 0
  uint16_t port = 29500;       // torch's default too
  int listen_fd = -1;          // rank 0: a socket that listens already
  std::string from = "local";  // "torchrun", "mpirun", "slurm", "local"
};

// nullopt when this process was not started as one of several ranks. Throws kInvalidArgument, naming the variable, when
// one is missing or makes no sense.
std::optional<RankPlace> rank_place_from_env();

// The first host of a Slurm list: "node[08-11,15],big1" gives "node08". Empty when the list makes no sense.
std::string first_slurm_host(const std::string& list);

}  // namespace tessera
