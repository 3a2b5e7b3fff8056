#include "kernels/hub/layer_abi.h"

#include <algorithm>

namespace tessera::hub_kernels {

namespace {

constexpr Layer kLayers[] = {
    {"RMSNorm", "rms_norm", "rms_norm", "add_rms_norm"}, {"MegaBlocksMoeMLP", "moe_mlp", "moe", "moe_mlp_part"},
    {"MoE", "moe_mlp", "moe", "moe_mlp_part"},           {"rotary_pos_emb", "rotary_pos_emb", "rope"},
    {"attention", "paged_attention", "attention"},       {"SiluAndMul", "silu_mul", "silu_mul"},
};

}  // namespace

std::span<const Layer> layers() {
  return kLayers;
}

const Layer* find_layer(std::string_view name) {
  const auto* row = std::ranges::find(kLayers, name, &Layer::name);
  return row == std::end(kLayers) ? nullptr : row;
}

}  // namespace tessera::hub_kernels
