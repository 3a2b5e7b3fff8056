// What must hold for every tokenizer file and every text, as one function that the property test and the fuzz target
// call.
#pragma once

#include <string>
#include <string_view>

namespace tessera {

// Reads `json` as a tokenizer.json; when it is one, encodes `text` (any bytes), decodes, and checks that
//   - decoding gives valid UTF-8, and as a stream exactly the same;
//   - encoding again gives the same ids (nothing remembered from the first time matters);
//   - all ids are in range, and so is everything that is asked of one id.
// An Error from the file or the text is a good outcome. Returns what went wrong, or nothing.
std::string check_tokenizer(std::string_view json, std::string_view text);

}  // namespace tessera
