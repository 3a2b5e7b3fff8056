// Which compute capability (major * 10 + minor) to act on: a card's own, or a lower one that TESSERA_CUDA_CAPABILITY
// names, so that a new card can test what an old one would do. Thread-safe.
#pragma once

namespace tessera {

// The code that this build's plain rows are compiled for; older cards cannot run any of it.
inline constexpr int kLeastCapability = 75;

// From "75" or "7.5"; 0: not set. Throws kInvalidArgument. The first call that finds one tells the driver to compile
// the embedded PTX instead of running the machine code beside it, so it must come before the driver is first used.
int forced_capability();

// The lower of the two.
int acting_capability(int found);

}  // namespace tessera
