// What a rank other than 0 does: the steps that rank 0 orders.
#pragma once

#include "engine/rank_links.h"
#include "engine/runner.h"

namespace tessera {

// Returns when rank 0 says goodbye; throws when a rank is lost or a step fails. Everything must outlive the call; the
// model's weights are this rank's.
void follow(const Model& model, const Kernels& kernels, ThreadPool& pool, DeviceContext& context, RankLinks& links);

}  // namespace tessera
