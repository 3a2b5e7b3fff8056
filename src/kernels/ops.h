// The op contracts: one argument struct an op. Every kernel of an op (reference, CPU, CUDA, hub) computes the same
// function of the same struct; kernels/reference is the definition, in plain loops.
//
// Common rules. Letters are those of core/tensor.h. Tensors are dense. "act" is an activation: F32, BF16 or F16, all
// activations of one call alike unless said otherwise. Arithmetic is done in F32; a value is rounded once, when it is
// stored. An undefined Tensor means the operand is absent. Outputs do not alias inputs unless said so. Weights are F32,
// BF16 or F16 unless said otherwise. Sizes were validated when the model was built; indices in device memory are
// trusted.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/tensor.h"
#include "parallel/communicator.h"

namespace tessera {

// out[t] = table[ids[t]].
struct EmbedArgs {
  Tensor ids;    // I32 [T], each in [0, V)
  Tensor table;  // [V, H]
  Tensor out;    // act [T, H]
};

// Residual add and RMS norm in one pass:
//   residual += delta (if defined; rounded to the residual's type);  out = norm(residual) * weight.
// norm(x) = x / sqrt(mean(x^2) + eps). gpt-oss multiplies by the weight in F32 and rounds once; Llama, Mistral and
// Qwen3 round norm(x) to the activation type before the multiply (round_before_weight).
struct RmsNormArgs {
  Tensor residual;  // act [T, N]; updated in place when delta is defined
  Tensor delta;     // act [T, N] or undefined
  Tensor weight;    // [N]
  float eps = 1e-5f;
  bool round_before_weight = false;
  Tensor out;  // act [T, N]; may be the residual's own memory only when delta is undefined (head norms)
};

// x += delta.
struct AddArgs {
  Tensor x;      // act [T, N], updated in place
  Tensor delta;  // act [T, N]
};

// out = x * w^T + bias.
struct LinearArgs {
  Tensor x;     // act [T, K]
  Weight w;     // [N, K], any format
  Tensor bias;  // [N] or undefined
  Tensor out;   // act or F32 [T, N]
};

// cos/sin of positions[t] * inv_freq[i], times factor. The product and the functions are F32; stored in the tables'
// type (transformers casts them to the activation type).
struct RopeTableArgs {
  Tensor positions;  // I32 [T]
  Tensor inv_freq;   // F32 [D/2], in host memory whatever the device: a constant of the model
  float factor = 1.0f;
  Tensor cos;  // act [T, D/2]
  Tensor sin;  // act [T, D/2]
};

// Rotates each head in place, split-half pairing (element i with i + D/2).
struct RopeArgs {
  Tensor x;    // act [T, heads, D]
  Tensor cos;  // act [T, D/2]
  Tensor sin;  // act [T, D/2]
};

// One layer's part of the paged cache.
struct KvPages {
  Tensor k;  // F32, BF16 or F16 [pages, K, P, D]
  Tensor v;  // same
  int64_t page_size() const { return k.dim(2); }
};

// Stores token t's keys and values at slot = page * P + offset; a negative slot is skipped.
struct KvWriteArgs {
  Tensor k;      // act [T, K, D]
  Tensor v;      // act [T, K, D]
  Tensor slots;  // I32 [T]
  KvPages cache;
};

// Causal attention of B sequences over the paged cache, into which the step's own keys were already written.
// Sequence b owns query rows [query_start[b], query_start[b+1]); its last query sits at position context[b]-1. Query at
// position p sees keys (p-W, p] (W = window), or [0, p] when window is 0. softmax over scale * q.k, with one extra
// logit sinks[h] that adds to the denominator only.
struct AttentionArgs {
  Tensor q;  // act [T, Q, D]
  KvPages cache;
  Tensor page_table;   // I32 [B, M]: page of tokens [i*P, (i+1)*P); entries wholly outside the window are never read
  Tensor query_start;  // I32 [B+1]
  Tensor context;      // I32 [B]: keys of the sequence, this step's included
  Tensor sinks;        // [Q] or undefined
  int64_t window = 0;
  float scale = 1.0f;
  // Host copies of the largest values, for grids and workspace.
  int64_t max_queries = 0;
  int64_t max_context = 0;
  Tensor out;  // act [T, Q, D]
};

enum class RouterMode : uint8_t {
  kSoftmaxOfTopK,            // gpt-oss: pick A logits, softmax over them
  kTopKOfSoftmax,            // Qwen3-MoE, norm_topk_prob false
  kTopKOfSoftmaxNormalised,  // Qwen3-MoE, norm_topk_prob true: divided by their sum
};

// Best A experts of each token, best first; ties go to the lower index. Weights are rounded to the logits' type.
struct RouterArgs {
  Tensor logits;  // act [T, E]
  RouterMode mode = RouterMode::kSoftmaxOfTopK;
  Tensor indices;  // I32 [T, A]
  Tensor weights;  // F32 [T, A]
};

enum class MoeActivation : uint8_t {
  kSwigluOai,  // rows of gate_up interleave: even gate, odd up. gate = min(gate, limit), up = clamp(up, -limit, limit),
               // out = (up + 1) * gate * sigmoid(1.702 * gate)
  kSilu,       // rows of gate_up: I gates, then I ups. out = silu(gate) * up
};

// out[t] = sum over a of weights[t, a] * (down[e] * act(gate_up[e] * x[t] + gate_up_bias[e]) + down_bias[e]),
// e = indices[t, a], summed in the order of a in F32. The weights are of experts [first_expert, first_expert + E): what
// another rank holds is left out of the sum. I may be 0: then only down_bias is summed.
struct MoeArgs {
  Tensor x;             // act [T, H]
  Tensor indices;       // I32 [T, A]
  Tensor weights;       // F32 [T, A]
  Weight gate_up;       // [E, 2I, H]
  Tensor gate_up_bias;  // [E, 2I] or undefined
  Weight down;          // [E, H, I]
  Tensor down_bias;     // [E, H] or undefined
  MoeActivation activation = MoeActivation::kSwigluOai;
  float limit = 7.0f;
  int64_t first_expert = 0;
  bool part = false;        // of the model's experts: ids of others, and -1, may come
  int64_t all_experts = 0;  // of the model, where known: tells how many of the tokens these will have
  Tensor out;               // act [T, H]
};
// Tokens that an expert has on average, rounded down.
inline int64_t tokens_an_expert(const MoeArgs& a) {
  return a.indices.numel() / std::max<int64_t>({a.all_experts, a.gate_up.experts, 1});
}

// out = silu(gate) * up.
struct SiluMulArgs {
  Tensor gate;  // act [T, I]
  Tensor up;    // act [T, I]
  Tensor out;   // act [T, I]; may be gate
};

// Fused ops: what several ops above compute, in one launch. They have rows where that pays; a layer that finds none
// runs the ops one by one (Step::try_run). Every value is rounded where the ops one by one would round it.

// RopeArgs on q and k, KvWriteArgs on k and v. k itself may be left as it was.
struct RopeKvArgs {
  Tensor q;         // act [T, Q, D], rotated in place
  Tensor k, v;      // act [T, K, D]
  Tensor cos, sin;  // act [T, D/2]
  Tensor slots;     // I32 [T]
  KvPages cache;
  Tensor packed;  // or act [T, Q + 2K, D]: a token's q, k and v heads side by side; k and v are undefined then, q is
                  // output
};

// RopeKvArgs of packed heads, then AttentionArgs over the cache that now holds them. The rotated queries may be left
// unwritten; both name the same cache, and slots[t] is where page_table says that token t's keys are.
struct RopeAttentionArgs {
  RopeKvArgs rope;
  AttentionArgs attention;  // q is rope.q
};

// RmsNormArgs, LinearArgs with the router's weight, RouterArgs.
struct NormRouterArgs {
  Tensor residual;     // act [T, H]; updated in place when delta is defined
  Tensor delta;        // act [T, H] or undefined
  Tensor norm_weight;  // [H]
  float eps = 1e-5f;
  bool round_before_weight = false;
  Weight router;       // [E, H]
  Tensor router_bias;  // [E] or undefined
  RouterMode mode = RouterMode::kSoftmaxOfTopK;
  Tensor normed;   // act [T, H]
  Tensor logits;   // act [T, E]
  Tensor indices;  // I32 [T, A]
  Tensor weights;  // F32 [T, A]
  // Set: delta is this rank's part, and their sum is added; delta itself may be left as it was. Every rank launches it.
  Communicator* communicator = nullptr;
  bool sent = false;  // by LinearSendArgs or MoeSendArgs, on every rank
};

// MoeArgs, then residual += out as in AddArgs. out itself may be left unwritten.
struct MoeAddArgs {
  MoeArgs moe;
  Tensor residual;  // act [T, H], updated in place
};

// The sum of the ranks' deltas (Communicator::all_reduce), then RmsNormArgs. The delta itself may be left as it was.
// Every rank launches it with the same shapes.
struct AllReduceNormArgs {
  RmsNormArgs norm;
  Communicator* communicator = nullptr;
  bool sent = false;  // as in NormRouterArgs
};

// LinearArgs and MoeArgs whose out is this rank's part of the communicator's next sum: the others get it while it is
// computed, so that the sum need not send it. Every rank launches it.
struct LinearSendArgs {
  LinearArgs linear;
  Communicator* communicator = nullptr;
};
struct MoeSendArgs {
  MoeArgs moe;
  Communicator* communicator = nullptr;
};

// One row of SampleArgs, as it lies in device memory. Names and meanings as in tessera/sampling.h.
struct SampleSettings {
  double temperature = 1.0;  // 0: greedy
  double top_p = 1.0;
  double min_p = 0.0;
  double frequency_penalty = 0.0;
  double presence_penalty = 0.0;
  double uniform = 0.0;  // [0, 1): decides the draw
  float repetition_penalty = 1.0f;
  int32_t top_k = 0;      // 0: off
  int32_t logprobs = -1;  // -1: none; n: of the choice, and of the n best tokens
  int32_t mask = -1;      // row of the masks; -1: every token is allowed
};

// What changes one logit of a row; a row names a token at most once.
struct LogitEdit {
  int32_t token = 0;
  float bias = 0.0f;
  int32_t count = -1;  // times in the output; 0: in the prompt only; -1: in neither
};

constexpr int64_t kMaxSampleLogprobs = 20;

// Logits whose columns several ranks computed, side by side. Part p is R rows of its width, one after another, at the
// start of parts[p]; the first wide_parts have width `wide`, the others `narrow`.
struct JoinColumnsArgs {
  Tensor parts;  // F32 [parts, at least R * wide]
  int64_t wide = 0, narrow = 0, wide_parts = 0;
  Tensor out;  // F32 [R, V], V the sum of the widths
};

// Chooses a token from each row of logits. In order:
//   1. NaN becomes -inf, and so does every token whose bit in the row's mask is 0;
//   2. edits: l += bias; if count >= 0: l = l < 0 ? l * repetition : l / repetition;
//      if count > 0: l -= frequency * count + presence;
//   3. temperature 0, or no finite best logit: the best token, ties to the lower id;
//   4. else weights w = exp((l - best) / temperature), rounded to F32, as whole numbers of 2^-f, f = 63 - bits of V;
//      top-k and top-p keep a prefix of the order (logit descending, id ascending): k tokens, then the fewest whose
//      weights reach top_p of the sum of what is left; min-p keeps w >= min_p;
//   5. the choice is the first token whose weight takes the running sum over uniform * sum, in that order when top-k
//      or top-p is on (0 < top_k < V, top_p < 1), in the order of ids when neither is.
// Sums of whole numbers have no order, so every kernel draws the same token from the same logits; two kernels can
// differ only where an exponential of theirs rounds differently. engine/sampler sums in F64 instead: it differs where
// uniform * sum falls within V * 2^-f of a border, one draw in about 10^8.
// Log-probabilities are of the logits before steps 1 (masks) and 2, without temperature; -inf where no logit is finite.
struct SampleArgs {
  Tensor logits;      // F32 [R, V]; masked and edited in place
  Tensor settings;    // U8 [R, sizeof(SampleSettings)]
  Tensor edit_start;  // I32 [R+1] or undefined; row r owns edits [edit_start[r], edit_start[r+1])
  Tensor edits;       // U8 [N, sizeof(LogitEdit)], N at least edit_start[R]; with edit_start
  Tensor masks;       // I32 [M, (V+31)/32] or undefined; bit i%32 of word i/32: token i is allowed
  // What the host knows of the settings; a false one promises that no row asks for it.
  bool any_random = true;     // temperature > 0
  bool any_cut = true;        // top_k or top_p on
  bool any_logprobs = false;  // logprobs >= 0; then the three outputs below are defined
  Tensor ids;                 // I32 [R]
  Tensor logprobs;            // F32 [R]; rows with logprobs >= 0 only
  Tensor top_ids;             // I32 [R, 20], best first; entries past the row's n are left alone
  Tensor top_logprobs;        // F32 [R, 20], likewise
};

// SampleArgs where ranks split the vocabulary: each has its own columns of every row, and all end up with the same ids.
// No edits, masks, cuts or log-probabilities. Every rank launches it.
struct SamplePartsArgs {
  SampleArgs sample;  // logits F32 [R, W]: columns [first, first + W) of V, ranks' in their order
  int64_t first = 0, widest = 0, vocab_size = 0;  // widest: of all ranks' W
  Communicator* communicator = nullptr;
};

}  // namespace tessera
