// Drafts by prompt lookup (n-gram): what followed the last few tokens when they last occurred. Free, and often right
// where an answer repeats its prompt.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tessera {

// Fills `draft` with up to `most` tokens that followed the latest earlier occurrence of tokens' last 3, else 2; empty
// when there is none.
void look_up_draft(std::span<const int32_t> tokens, int64_t most, std::vector<int32_t>& draft);

}  // namespace tessera
