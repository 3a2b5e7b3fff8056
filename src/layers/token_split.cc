#include "layers/token_split.h"

#include <algorithm>
#include <cstring>

namespace tessera {

TokenSplit split_tokens(Step& step, const Tensor& page_table) {
  const StepRanks& ranks = *step.ranks;
  const int64_t tokens = step.tokens(), sequences = step.context.dim(0), parts = ranks.mesh.replicas();
  TokenSplit part{.tokens = share(tokens, parts, ranks.mesh.replica(ranks.rank)),
                  .most = share(tokens, parts, 0).count};
  part.query_start = step.alloc(DType::kI32, {sequences + 1});
  part.context = step.alloc(DType::kI32, {sequences});
  part.page_table = page_table;
  if (step.measure) return part;
  const int32_t *start = step.query_start.i32(), *context = step.context.i32();
  const Range mine = part.tokens;
  int64_t first = 0, count = 0;
  for (int64_t b = 0; b < sequences; ++b) {
    const int64_t begin = std::max<int64_t>(start[b], mine.begin), end = std::min<int64_t>(start[b + 1], mine.end());
    if (begin >= end) continue;
    if (count == 0) first = b;
    part.query_start.i32()[count] = static_cast<int32_t>(begin - mine.begin);
    part.context.i32()[count++] = static_cast<int32_t>(context[b] - (start[b + 1] - end));
  }
  part.query_start.i32()[count] = static_cast<int32_t>(mine.count);
  part.query_start.shape = {count + 1}, part.context.shape = {count};
  part.page_table = page_table.rows(first, count);
  return part;
}

void join_tokens(Step& step, const Tensor& own, const Tensor& all) {
  if (step.measure) return;
  const StepRanks& ranks = *step.ranks;
  const int64_t parts = ranks.mesh.replicas(), most = own.dim(0);
  ranks.replicas->all_gather(own, all.reshape({parts, most, own.dim(1)}), step.stream.native);
  // Parts that are one shorter than the first leave gaps.
  int64_t next = 0;
  for (int64_t p = 0; p < parts; ++p) {
    const Tensor rows = all.rows(p * most, share(step.tokens(), parts, p).count);
    std::memmove(all.rows(next, rows.dim(0)).data, rows.data, static_cast<size_t>(rows.bytes()));
    next += rows.dim(0);
  }
}

}  // namespace tessera
