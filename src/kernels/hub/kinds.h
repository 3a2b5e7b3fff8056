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

// `second`: of the layer's second function.
std::vector<Kind> usual_kinds(const Layer& layer, DeviceType device, bool second = false);

}  // namespace tessera::hub_kernels
