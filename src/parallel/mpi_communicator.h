// The communicator of CPU ranks that mpirun (or Slurm with MPI) started: one host or many. Sums are taken in rank
// order.
#pragma once

#include <memory>

#include "parallel/channel.h"
#include "parallel/communicator.h"

namespace tessera {

// Every rank calls it. The channel must live longer: its loss ends what waits here. Throws kUnsupported when this build
// or this start has no MPI.
std::unique_ptr<Communicator> make_mpi_communicator(Channel& channel);

}  // namespace tessera
