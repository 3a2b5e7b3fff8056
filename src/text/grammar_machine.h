// Follows a text through a program, byte by byte: Earley's parser (1970) with frames that persist, so that positions
// can be taken back and most of a long text needs no memory. Ambiguity, left recursion and empty rules are all right.
// Not thread-safe; copies are independent.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "text/grammar_program.h"

namespace tessera {

class GrammarMachine {
 public:
  // In `state` of a rule that `frame` has called.
  struct Config {
    uint32_t state, frame;
    int32_t count = 0;  // rounds of the loop that the state is in
    bool operator==(const Config&) const = default;
  };

  explicit GrammarMachine(std::shared_ptr<const GrammarProgram> program);

  const GrammarProgram& program() const { return *program_; }

  // Each makes a new position behind the current one, or returns false and changes nothing. skip_masked: states that
  // are masked do not take part. Throw kUnsupported when too many ways are open at once.
  bool step(uint8_t byte, bool skip_masked = false);
  bool step_token(int32_t id);
  // The position after what a frame has called ends.
  bool step_out(uint32_t frame);

  size_t positions() const { return positions_.size(); }
  // Back to the first `count` positions. REQUIRES 0 < count <= positions().
  void truncate(size_t count);
  // Forgets positions `from` to the one before the last; the last one takes their place.
  void squash(size_t from);
  // Keeps the last `count` positions and gives the memory back that only the others used, now and then.
  void forget(size_t count);

  // The ways that are open at the last position.
  std::span<const Config> configs() const {
    return std::span(configs_).subspan(positions_.back().configs, configs_.size() - positions_.back().configs);
  }
  bool can_end() const { return positions_.back().can_end; }
  ByteSet next_bytes(bool skip_masked = false) const;
  bool has_token_edges() const;

  uint64_t steps() const { return steps_; }

 private:
  struct Link {
    uint32_t state, frame;  // where the caller goes on
    bool operator==(const Link&) const = default;
  };
  struct Frame {
    uint32_t links, links_end;
  };
  struct Position {
    uint32_t configs;        // the first
    uint32_t frames, links;  // how many there were before this position
    bool can_end;
  };

  void begin();
  bool finish();
  void add(uint32_t state, uint32_t frame, int32_t count);
  void close();
  void end_rule(uint32_t frame);
  void call(const GrammarCall& call, uint32_t frame);
  void compact();

  std::shared_ptr<const GrammarProgram> program_;
  std::vector<Config> configs_;
  std::vector<Frame> frames_;  // 0: nobody called
  std::vector<Link> links_;
  std::vector<Position> positions_;
  uint64_t steps_ = 0;
  size_t compact_at_ = 4096;  // frames

  // Of the position that is being made.
  struct Opened {
    uint32_t rule;
    std::vector<Link> links;
  };
  std::vector<Opened> opened_;  // its frames, from positions_.back().frames on; entries beyond opened_count_ are spare
  size_t opened_count_ = 0;
  std::vector<uint32_t> seen_;  // hash table over the configs, for large sets; 0: free
};

}  // namespace tessera
