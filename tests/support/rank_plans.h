// Plans of ranks that tests load models with: threads of this process, a core's share each.
#pragma once

#include <string>

#include "tessera/llm.h"

namespace tessera {

struct RankPlan {
  int tp = 0, ep = 0;
  const char* attention = "tp";
  const char* experts = "auto";
};

inline std::string name_of(const RankPlan& p) {
  std::string name = "tp" + std::to_string(p.tp) + "_ep" + std::to_string(p.ep);
  if (p.attention == std::string("dp")) name += "_dp";
  if (p.experts != std::string("auto")) name += "_allreduce";
  return name;
}

inline LoadOptions cpu_ranks(const RankPlan& plan, int64_t max_context = 512) {
  return {.device = "cpu",
          .dtype = "float32",
          .threads = 1,
          .max_context = max_context,
          .tp = plan.tp,
          .ep = plan.ep,
          .attention = plan.attention,
          .experts = plan.experts};
}

}  // namespace tessera
