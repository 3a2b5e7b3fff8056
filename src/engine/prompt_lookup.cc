#include "engine/prompt_lookup.h"

#include <algorithm>

namespace tessera {

void look_up_draft(std::span<const int32_t> tokens, int64_t most, std::vector<int32_t>& draft) {
  draft.clear();
  for (size_t n : {size_t{3}, size_t{2}}) {
    if (tokens.size() <= n) continue;
    const std::span<const int32_t> last = tokens.last(n);
    for (size_t end = tokens.size() - 1; end >= n; --end) {  // the occurrence is tokens[end - n, end)
      if (tokens[end - 1] != last[n - 1] ||
          !std::equal(last.begin(), last.end(), tokens.begin() + static_cast<long>(end - n)))
        continue;
      const size_t count = std::min(static_cast<size_t>(std::max<int64_t>(most, 0)), tokens.size() - end);
      draft.assign(tokens.begin() + static_cast<long>(end), tokens.begin() + static_cast<long>(end + count));
      return;
    }
  }
}

}  // namespace tessera
