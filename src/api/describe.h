// What `inspect` and `kernels list` print, as JSON.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "kernels/table.h"
#include "loading/checkpoint.h"
#include "models/model.h"

namespace tessera {

// "auto" takes the checkpoint's own type. Throws kInvalidArgument for an unknown name.
DType resolve_dtype(const std::string& name, const Json& config);
// Of the cache: "auto" is none, "fp8" E4M3. Throws kInvalidArgument.
std::optional<DType> resolve_cache_dtype(const std::string& name);

// Architecture, quantisation, memory by kind of weight, cache per token, and a row a tensor. Needs headers only.
Json describe_model(const Checkpoint& checkpoint, const Model& model, const std::vector<LoadedRow>& rows, DType dtype,
                    bool ignore_window, std::optional<DType> cache_dtype = std::nullopt);

// Every op with its rows in order of preference.
Json describe_kernel_table(const Kernels& kernels);

}  // namespace tessera
