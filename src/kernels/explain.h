// Why an op's table chose what it chose: the problem in words, the row that serves it, and what the rows before it
// said.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "kernels/table.h"

namespace tessera {

struct KernelChoice {
  std::string op;
  std::string problem;                                       // "[1, 2880] x [4096, 2880] BF16 -> BF16"
  std::string row;                                           // empty: none accepts
  std::vector<std::pair<std::string, std::string>> refused;  // rows of better rank, and their reasons

  bool operator==(const KernelChoice&) const = default;
};

// The shapes and types that decide.
std::string problem_of(const EmbedArgs& a);
std::string problem_of(const RmsNormArgs& a);
std::string problem_of(const AddArgs& a);
std::string problem_of(const LinearArgs& a);
std::string problem_of(const RopeTableArgs& a);
std::string problem_of(const RopeArgs& a);
std::string problem_of(const KvWriteArgs& a);
std::string problem_of(const RopeKvArgs& a);
std::string problem_of(const AttentionArgs& a);
std::string problem_of(const RopeAttentionArgs& a);
std::string problem_of(const RouterArgs& a);
std::string problem_of(const MoeArgs& a);
std::string problem_of(const MoeAddArgs& a);
std::string problem_of(const SiluMulArgs& a);
std::string problem_of(const NormRouterArgs& a);
std::string problem_of(const AllReduceNormArgs& a);
std::string problem_of(const LinearSendArgs& a);
std::string problem_of(const MoeSendArgs& a);
std::string problem_of(const SampleArgs& a);
std::string problem_of(const SamplePartsArgs& a);
std::string problem_of(const JoinColumnsArgs& a);

template <class Args>
KernelChoice explain_choice(const OpTable<Args>& table, const Args& args) {
  KernelChoice choice{.op = table.op, .problem = problem_of(args)};
  for (const KernelRow<Args>& row : table.rows) {
    const Verdict verdict = table.judge(row, args);
    if (verdict) {
      choice.row = row.name;
      break;
    }
    choice.refused.emplace_back(row.name, verdict.refusal);
  }
  return choice;
}

}  // namespace tessera
