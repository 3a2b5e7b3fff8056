// Reference of the token feed.
#include "kernels/reference/rows.h"

namespace tessera::reference {

namespace {

Verdict supports(const TokenFeedArgs& a) {
  for (const Tensor* t : {&a.ids, &a.source, &a.sampled})
    if (t->device.type != DeviceType::kCpu) return {"the tensors are not in CPU memory"};
  return kAccepted;
}

void launch(const TokenFeedArgs& a, Stream&) {
  for (int64_t t = 0; t < a.ids.dim(0); ++t)
    if (int32_t from = a.source.i32()[t]; from >= 0) a.ids.i32()[t] = a.sampled.i32()[from];
}

}  // namespace

KernelRow<TokenFeedArgs> token_feed_row() {
  return {"token_feed_ref", DeviceType::kCpu, "plain loop", supports, nullptr, launch};
}

}  // namespace tessera::reference
