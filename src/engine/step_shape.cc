#include "engine/step_shape.h"

#include <algorithm>

namespace tessera {

namespace {

int64_t round_up(int64_t value, int64_t step) {
  return (value + step - 1) / step * step;
}

}  // namespace

int64_t recorded_sequences(int64_t sequences, int64_t max_sequences) {
  const int64_t step = sequences <= 8 ? 1 : sequences <= 64 ? 8 : sequences <= 256 ? 16 : 64;
  return std::min(round_up(sequences, step), max_sequences);
}

std::vector<int64_t> recorded_sizes(int64_t max_sequences) {
  std::vector<int64_t> sizes;
  for (int64_t n = 1; n <= max_sequences; n = sizes.back() + 1) sizes.push_back(recorded_sequences(n, max_sequences));
  return sizes;
}

int64_t recorded_context(int64_t context, int64_t max_context) {
  int64_t bound = 512;
  while (bound < context) bound *= 4;
  return std::min(bound, max_context);
}

StepShape recorded_shape(const StepShape& shape, int64_t max_sequences, int64_t max_context, int64_t page_size) {
  const int64_t sequences = recorded_sequences(shape.sequences, max_sequences);
  const int64_t context = recorded_context(shape.max_context, max_context);
  return {.tokens = sequences,
          .sequences = sequences,
          .rows = sequences,
          .max_queries = 1,
          .max_context = context,
          .table_width = round_up(context, page_size) / page_size};
}

}  // namespace tessera
