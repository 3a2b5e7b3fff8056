// LoadOptions::use_kernels: which layers of a model get a kernel from the hub, and the libraries that have them.
#pragma once

#include "core/device_context.h"
#include "hub/kernel_store.h"
#include "kernels/hub/attach.h"
#include "kernels/table.h"
#include "tessera/llm.h"

namespace tessera {

// Puts them into the table; a layer that cannot be had keeps its built-in kernel, with a warning that says why. Throws
// kInvalidArgument for a text that is none of the forms, kNotFound or kCorrupt for a mapping or lock that cannot be
// read.
void use_hub_kernels(Kernels& kernels, const LoadOptions& options, DeviceContext& context);

// A kernel as people name it, its layer not set: a library, a folder (a variant's or a repository's, held against the
// digests of its metadata.json), or ORG/NAME[@REVISION][:FUNCTION], from the cache or the hub. Throws kInvalidArgument
// for a text that is none of these, and as library_of_folder and hub::get_kernel.
hub_kernels::HubLayer find_kernel(const std::string& source, const hub::KernelSettings& settings,
                                  DeviceContext& context);

}  // namespace tessera
