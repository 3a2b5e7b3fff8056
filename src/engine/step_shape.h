// The sizes of one step, and the coarser ones under which a decode step is recorded once and replayed. Pure.
#pragma once

#include <cstdint>
#include <vector>

namespace tessera {

struct StepShape {
  int64_t tokens = 0;
  int64_t sequences = 0;
  int64_t rows = 0;         // of logits
  int64_t max_queries = 0;  // of one sequence
  int64_t max_context = 0;  // of one sequence, this step included
  int64_t table_width = 0;  // pages of one sequence
  // Where groups of ranks have sequences of their own: what is wanted of all, and at most of one.
  int64_t all_rows = 0, most_rows = 0;

  bool is_decode() const { return tokens == sequences && rows == sequences; }
};

// Sequences of a recorded step that holds `sequences`: few are exact, since a row more may read another expert; many
// are rounded up.
int64_t recorded_sequences(int64_t sequences, int64_t max_sequences);
// All values of the above, smallest first.
std::vector<int64_t> recorded_sizes(int64_t max_sequences);
// Likewise of its longest context: powers of four from 512.
int64_t recorded_context(int64_t context, int64_t max_context);

// A decode step with at most `max_sequences` and `max_context`, rounded up so. The rows added compute nothing that is
// read.
StepShape recorded_shape(const StepShape& shape, int64_t max_sequences, int64_t max_context, int64_t page_size);

}  // namespace tessera
