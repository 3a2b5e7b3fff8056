// How likely a model finds a text.
#pragma once

#include <span>

#include "engine/runner.h"

namespace tessera {

// Sum of -log p(ids[i] | ids[0..i)) for i = 1..n-1, in double. Takes its cache pages while it runs. Throws
// kInvalidArgument: no ids, more than the context, an id out of range.
double negative_log_likelihood(Runner& runner, std::span<const int32_t> ids);

// Throws kInvalidArgument for an empty prompt or an id that is not in [0, V).
void check_token_ids(std::span<const int32_t> ids, int64_t vocab_size);

}  // namespace tessera
