#include "engine/follower.h"

#include <cstring>
#include <map>

namespace tessera {

// Between the end of a step and the next order lie sampling and planning on rank 0.
constexpr std::chrono::microseconds kAwake(2000);

void follow(const Model& model, const Kernels& kernels, ThreadPool& pool, DeviceContext& context, RankLinks& links) {
  const Kernels invariant = kernels.batch_invariant();
  std::map<int32_t, std::unique_ptr<Runner>> runners;
  std::string message;
  context.make_current();
  if (context.device().type == DeviceType::kCuda) links.channel->stay_awake(kAwake);
  while (links.channel->receive(0, message)) {
    Order order;
    TS_CHECK(message.size() >= sizeof order, "an order of {} bytes", message.size());
    std::memcpy(&order, message.data(), sizeof order);
    const std::string_view rest = std::string_view(message).substr(sizeof order);
    switch (order.kind) {
      case OrderKind::kMake: {
        RunnerOptions options;
        TS_CHECK(rest.size() == sizeof options);
        std::memcpy(&options, rest.data(), sizeof options);
        try {
          runners[order.runner] = std::make_unique<Runner>(model, options.deterministic ? invariant : kernels, pool,
                                                           context, options, &links);
        } catch (const NoRunner&) {
        }
        break;
      }
      case OrderKind::kDrop:
        runners.erase(order.runner);
        break;
      case OrderKind::kEnd:
        return context.synchronize();
      case OrderKind::kStep:
        runners.at(order.runner)->repeat(order, rest);
        if (runners.at(order.runner)->in_parts()) break;  // the sampling comes next
        context.synchronize();                            // now, not between the next order and its launch
        break;
      case OrderKind::kSample:
        runners.at(order.runner)->repeat_sampling(rest);  // the next order may come before it is done
        break;
    }
  }
  context.synchronize();
}

}  // namespace tessera
