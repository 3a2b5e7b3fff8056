#include "parallel/communicator.h"

#include "core/error.h"

namespace tessera {

void Communicator::dispatch(const TokenRoutes&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, void*) {
  TS_CHECK(dispatches(), "{} does not dispatch", name());
}

void Communicator::combine(const TokenRoutes&, const Tensor&, const Tensor&, const Tensor&, void*) {
  TS_CHECK(dispatches(), "{} does not dispatch", name());
}

}  // namespace tessera
