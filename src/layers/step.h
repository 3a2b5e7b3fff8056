// Step: one forward pass over T tokens of B sequences, passed explicitly through every layer. It carries the batch, the
// cache views, scratch memory and the kernels. Owned by the engine's runner; used by one thread.
#pragma once

#include <algorithm>
#include <functional>
#include <numeric>
#include <span>
#include <string_view>

#include "core/arena.h"
#include "core/error.h"
#include "kernels/explain.h"
#include "kernels/table.h"
#include "parallel/communicator.h"
#include "parallel/sharding.h"

namespace tessera {

// One layer's cache as the step sees it. Layers of one cache group share page_table and slots.
struct LayerCacheView {
  KvPages pages;
  Tensor page_table;  // I32 [B, M]
  Tensor slots;       // I32 [T]
};

// How the ranks that own experts get their tokens.
enum class ExpertExchange : uint8_t {
  kAllReduce,  // every rank holds every token, computes its own experts and all sum
  kDispatch,   // tokens go to the ranks that own one of their experts, and the answers come back
};

// The ranks that compute a step together.
struct StepRanks {
  Mesh mesh;
  int rank = 0;
  Communicator* world = nullptr;     // all of them, which split logits
  Communicator* tensor = nullptr;    // the T that split attention and dense layers
  Communicator* replicas = nullptr;  // with mesh.split_tokens: those that hold the same part of attention, one a group
  ExpertExchange exchange = ExpertExchange::kAllReduce;
};

// Logits whose columns several ranks hold.
struct LogitParts {
  Tensor own;  // F32 [R, W], this rank's
  Tensor all;  // F32 [ranks, R * widest W], room for everyone's
};
constexpr int64_t kInParts = -1;  // Step::candidates

// Where groups of ranks have sequences of their own (mesh.split_tokens): what a group must know of the others' step.
struct TokenGroups {
  std::span<const int64_t> tokens;  // T of every group; empty: all ranks hold all tokens
  Tensor live;                      // I32 [1]: so many of this group's T are tokens, the others fill up
  int64_t most_rows = 0;            // of one group's wanted logits
  Tensor row_order;                 // I32 [R]: the wanted logits of all groups, as group * most_rows + row

  int64_t total() const { return std::accumulate(tokens.begin(), tokens.end(), int64_t{0}); }
  int64_t most() const { return *std::max_element(tokens.begin(), tokens.end()); }
};

// Called with the intermediate tensors that tests compare: "hidden.embed", "attention.0", "router_logits.3", ...
using Probe = std::function<void(std::string_view name, int layer, const Tensor& value)>;

struct Step {
  const Kernels* kernels = nullptr;
  Stream stream;
  Arena* scratch = nullptr;
  DType dtype = DType::kF32;  // activations

  Tensor ids;          // I32 [T]
  Tensor positions;    // I32 [T]
  Tensor query_start;  // I32 [B+1]
  Tensor context;      // I32 [B]
  int64_t max_queries = 0;
  int64_t max_context = 0;
  std::span<const LayerCacheView> cache;  // one a layer

  Tensor logit_rows;  // I32 [R]: rows of the step whose logits are wanted; R may be 0
  TokenGroups groups;
  Tensor logits;  // F32 [R, V], set by forward; R of all groups
  // Where ranks split the vocabulary on a GPU, forward leaves this one's columns here, and join_logits() fills
  // `logits`.
  LogitParts parts;
  // With ranks: only the best so many logits of each are wanted, the others are -inf. 0: all. kInParts: forward's are
  // not joined, tokens are chosen from the parts.
  int64_t candidates = 0;

  const StepRanks* ranks = nullptr;  // null: this one alone

  // Measuring: nothing runs; scratch is Arena::measuring() and workspace_bytes becomes the largest any kernel asked.
  bool measure = false;
  int64_t workspace_bytes = 0;
  std::vector<KernelChoice>* choices = nullptr;  // gets every choice, each once, while measuring
  const Probe* probe = nullptr;

  int64_t tokens() const { return ids.dim(0); }

  Tensor alloc(Shape shape) { return scratch->tensor(dtype, shape); }
  Tensor alloc(DType type, Shape shape) { return scratch->tensor(type, shape); }

  void show(std::string_view name, int layer, const Tensor& value) const {
    if (probe && !measure) (*probe)(name, layer, value);
  }

  bool split() const { return ranks != nullptr && ranks->mesh.ranks() > 1; }

  // x becomes the sum over the ranks; nothing while measuring.
  void all_reduce(Communicator* over, const Tensor& x) {
    if (!measure && over != nullptr && over->size() > 1 && x.numel() > 0) over->all_reduce(x, stream.native);
  }

  // Runs the op's best row for these arguments.
  template <class Args>
  void run(const OpTable<Args>& table, const Args& args) {
    const KernelRow<Args>* row = table.choose(args);
    if (choices) note(explain_choice(table, args));
    TS_CHECK(row != nullptr, "no kernel of {} accepts the arguments; see `tessera kernels list`", table.op);
    if (measure) {
      if (row->workspace) workspace_bytes = std::max(workspace_bytes, row->workspace(args));
    } else {
      row->launch(args, stream);
    }
  }

  // The same for a fused op; false, and nothing done, when no row accepts: the caller then runs the ops one by one.
  template <class Args>
  bool try_run(const OpTable<Args>& table, const Args& args) {
    if (table.choose(args) == nullptr) {
      if (choices && !table.rows.empty()) note(explain_choice(table, args));
      return false;
    }
    run(table, args);
    return true;
  }

 private:
  void note(KernelChoice&& choice) {
    if (std::find(choices->begin(), choices->end(), choice) == choices->end()) choices->push_back(std::move(choice));
  }
};

// Scratch taken inside the scope is given back at its end.
class ScratchScope {
 public:
  explicit ScratchScope(Step& step) : arena_(step.scratch), mark_(step.scratch->used()) {}
  ~ScratchScope() { arena_->rewind(mark_); }
  ScratchScope(const ScratchScope&) = delete;

 private:
  Arena* arena_;
  int64_t mark_;
};

}  // namespace tessera
