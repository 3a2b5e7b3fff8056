#include "text/pretokenizer.h"

#include <algorithm>

#include "text/normalizer.h"

namespace tessera {
namespace {

using Part = PreTokenizer::Part;

// Calls each(begin, end, matched) for all parts of `text` in order, some of them empty.
template <class Each>
void for_each_part(const SplitStage& split, std::string_view text, Regex::Scratch& scratch, Each each) {
  size_t done = 0;
  auto match = [&](size_t begin, size_t end) {
    if (begin > done) each(done, begin, split.invert);
    each(begin, end, !split.invert);
    done = end;
  };
  if (const auto* literal = std::get_if<std::string>(&split.pattern)) {
    for (size_t at; (at = text.find(*literal, done)) != std::string_view::npos;) match(at, at + literal->size());
  } else {
    RegexMatches matches(std::get<Regex>(split.pattern), text, scratch);
    for (Regex::Match found; matches.next(found);) match(found.begin, found.end);
  }
  if (done < text.size()) each(done, text.size(), split.invert);
}

// Joins neighbours in place: `joins(previous, current)` in the order of the walk.
template <class Iterator, class Joins>
Iterator join_parts(Iterator first, Iterator last, Joins joins) {
  Iterator kept = first;
  bool previous_matched = false;
  for (Iterator part = first; part != last; ++part) {
    bool matched = part->matched;
    if (kept != first && joins(previous_matched, matched)) {
      Part& into = *std::prev(kept);
      into.begin = std::min(into.begin, part->begin);
      into.end = std::max(into.end, part->end);
    } else {
      *kept++ = *part;
    }
    previous_matched = matched;
  }
  return kept;
}

void join(SplitBehavior behavior, std::vector<Part>& parts) {
  auto same = [](bool previous, bool current) { return previous == current; };
  auto lone_match = [](bool previous, bool current) { return current && !previous; };
  if (behavior == SplitBehavior::kContiguous) {
    parts.erase(join_parts(parts.begin(), parts.end(), same), parts.end());
  } else if (behavior == SplitBehavior::kMergedWithPrevious) {
    parts.erase(join_parts(parts.begin(), parts.end(), lone_match), parts.end());
  } else {
    auto kept = join_parts(parts.rbegin(), parts.rend(), lone_match);
    parts.erase(parts.begin(), kept.base());
  }
}

}  // namespace

struct PreTokenizer::Context {
  std::vector<Scratch>& scratch;
  Regex::Scratch& regex;
  const Sink& sink;
};

void PreTokenizer::split(const SplitStage& split, size_t stage, std::string_view text, bool at_start,
                         Context& context) const {
  auto emit = [&](size_t begin, size_t end) {
    if (begin < end) run_stage(stage + 1, text.substr(begin, end - begin), at_start && begin == 0, context);
  };
  if (split.behavior == SplitBehavior::kIsolated || split.behavior == SplitBehavior::kRemoved) {
    bool removed = split.behavior == SplitBehavior::kRemoved;
    return for_each_part(split, text, context.regex, [&](size_t begin, size_t end, bool matched) {
      if (!(removed && matched)) emit(begin, end);
    });
  }
  std::vector<Part>& parts = context.scratch[stage].parts;
  parts.clear();
  for_each_part(split, text, context.regex, [&](size_t begin, size_t end, bool matched) {
    parts.push_back({begin, end, matched});
  });
  join(split.behavior, parts);
  for (const Part& part : parts) emit(part.begin, part.end);
}

void PreTokenizer::run_stage(size_t stage, std::string_view text, bool at_start, Context& context) const {
  if (stage == stages_.size()) return context.sink(text);
  if (const auto* splitter = std::get_if<SplitStage>(&stages_[stage]))
    return split(*splitter, stage, text, at_start, context);
  std::string& out = context.scratch[stage].text;
  out.clear();
  if (const auto* metaspace = std::get_if<MetaspaceStage>(&stages_[stage])) {
    bool marked = text.starts_with(' ') || text.starts_with(metaspace->mark);
    bool prepend = metaspace->prepend == MetaspaceStage::Prepend::kAlways ||
                   (metaspace->prepend == MetaspaceStage::Prepend::kFirst && at_start);
    if (prepend && !marked) out += metaspace->mark;
    replace_text(text, {" ", metaspace->mark}, out);
  } else {
    if (text.starts_with(' ')) return run_stage(stage + 1, text, at_start, context);
    out += ' ';
    out += text;
  }
  run_stage(stage + 1, out, at_start, context);
}

void PreTokenizer::run(std::string_view text, bool at_start, std::vector<Scratch>& scratch, Regex::Scratch& regex,
                       const Sink& sink) const {
  scratch.resize(std::max(scratch.size(), stages_.size()));
  Context context{scratch, regex, sink};
  if (!text.empty()) run_stage(0, text, at_start, context);
}

}  // namespace tessera
