// What libtessera_mpi.so offers: the few calls of MPI that are used, as plain C, because handles and constants differ
// from one MPI to another. The program opens it only under mpirun, so it starts without MPI's libraries.
// All calls return 0, or an error that `describe` puts into words. Used by one thread.
#pragma once

#include <cstdint>

extern "C" {

struct TesseraMpi {
  // Joins the other ranks, unless MPI is there already.
  int (*start)();
  int (*finish)();
  void* (*world)();
  int (*rank)(void* comm, int* rank, int* size);
  int (*split)(void* comm, int colour, int key, void** part);
  void (*release)(void* comm);
  // Each starts one collective of bytes; a communicator has one under way at a time.
  int (*gather)(void* comm, const void* mine, int bytes, void* all);
  int (*exchange)(void* comm, const void* from, const int* send_bytes, const int* send_at, void* to,
                  const int* receive_bytes, const int* receive_at);
  int (*broadcast)(void* comm, void* bytes, int count, int root);
  int (*barrier)(void* comm);
  int (*test)(void* comm, int* done);  // of what was started
  void (*describe)(int error, char* text, int size);
};

// dlsym("tessera_mpi")
typedef const TesseraMpi* (*TesseraMpiEntry)();
}
