// The communicator of one rank: there is nobody to talk to.
#pragma once

#include <memory>

#include "parallel/communicator.h"

namespace tessera {

std::unique_ptr<Communicator> make_single_communicator();

}  // namespace tessera
