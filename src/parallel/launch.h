// Starts this program again as the local ranks of a run, and watches over them.
#pragma once

namespace tessera {

// Runs /proc/self/exe with these arguments as `size` processes, each with torchrun's variables set, and returns the
// exit status of the whole: 0 when all ended with 0. Called before any thread or GPU exists.
//
// Rank 0 keeps the terminal; the others have no input, and their errors are only shown when rank 0 does not say why the
// run ends. A signal to this process goes to rank 0, which ends the others through their channel. When a rank dies, the
// others have a few seconds to say why; then they are killed, and so they are when this process dies.
int launch_local_ranks(int size, char** argv);

}  // namespace tessera
