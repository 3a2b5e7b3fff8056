// What `tessera plan` prints: how a mesh splits a model, what each rank holds, and what a token costs to communicate.
#pragma once

#include "core/json.h"
#include "loading/checkpoint.h"
#include "models/model.h"
#include "parallel/mesh.h"

namespace tessera {

struct PlanRequest {
  Mesh mesh;
  bool dispatch = false;  // experts
  bool on_gpus = false;   // where each part of a row tells its best token, instead of its best few
  DType dtype = DType::kBF16;
  bool dequantize = false;
  int64_t device_memory = 0;  // bytes that each rank's GPU may use, the driver's share included; 0: not said
};

// Needs config.json alone. Throws kInvalidArgument for an impossible mesh, naming the nearest possible ones, and
// kOutOfMemory naming the first rank whose weights device_memory cannot hold.
Json describe_plan(const Checkpoint& checkpoint, Model& model, const PlanRequest& request);

// Predictions of docs/scaling.md: tokens a second of 1 to 64 H100s under every plan that fits their memory, as replicas
// behind a load balancer where the plan takes fewer. The request's mesh gives the unit of inner widths.
Json scaling_table(const Checkpoint& checkpoint, Model& model, const PlanRequest& request);

}  // namespace tessera
