// Problems that a kernel is checked on when no model is given: gpt-oss-20b's.
#pragma once

#include <string>
#include <vector>

#include "kernels/hub/layer_abi.h"

namespace tessera::hub_kernels {

struct Kind {
  std::string text;  // "[T, 2880] BF16"
  Key key;
};

// `fused`: of the layer's fused function.
std::vector<Kind> usual_kinds(const Layer& layer, DeviceType device, bool fused = false);

}  // namespace tessera::hub_kernels
