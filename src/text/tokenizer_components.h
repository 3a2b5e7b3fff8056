// The small components of tokenizer.json, read from their JSON: normalizer, pre-tokenizer, post-processor, decoder.
// Each function adds to `parts`, throws kUnsupported for a type it does not know, naming those it knows, and kCorrupt
// for a member that is missing or wrong. REQUIRES a node that is not null.
#pragma once

#include "text/json_node.h"
#include "text/tokenizer_json.h"

namespace tessera {

void read_normalizer(const JsonNode& node, TokenizerParts& parts);
// Sets parts.bpe.byte_level when the pre-tokenizer ends in ByteLevel.
void read_pre_tokenizer(const JsonNode& node, TokenizerParts& parts);
void read_post_processor(const JsonNode& node, TokenizerParts& parts);
void read_decoder(const JsonNode& node, TokenizerParts& parts);

}  // namespace tessera
