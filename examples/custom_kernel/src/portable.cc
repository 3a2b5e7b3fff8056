// tvm-ffi's headers build messages in string streams, whose constructor is newer (GLIBCXX_3.4.26) than the C++ library
// of systems that kernels should run on. Instantiated here, it is part of this library.
#include <sstream>

template class std::basic_ostringstream<char>;
