// What is said when a mapped file lost pages that were in use: somebody cut it, or its disk failed.
#pragma once

namespace tessera::cli {

// From now on one line on stderr comes before the process ends by SIGBUS, as it would anyway. Does nothing where
// somebody else handles that signal already. Called once, at the program's start.
void explain_lost_pages();

}  // namespace tessera::cli
