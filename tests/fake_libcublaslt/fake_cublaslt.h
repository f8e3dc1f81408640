// A libcublasLt without a GPU: it multiplies memory of the host as the descriptors say, at once, and is as strict as the real
// one may be. Counts what is alive and fails where it is told to.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tests/fake_libcuda/fake_cuda.h"

namespace prism::fake {

struct CublasLt {
  Fault fault;
  int algorithms = 1;                    ///< how many it knows for any product
  std::string failed;
  std::map<std::string, int> live;
  std::vector<std::string> mistakes;
  int choices = 0, products = 0;
  int64_t calls = 0;
  void* stream = nullptr;                ///< of the last product
  bool multiplies = true;                ///< false: addresses are those of a fake GPU, products are only noted
  struct Product {
    uint64_t rows, columns, depth;       ///< of the result, by columns
    const void *a, *b, *c, *d;
  };
  std::vector<Product> noted;
};

}  // namespace prism::fake

extern "C" {
prism::fake::CublasLt* fake_cublaslt();
void fake_cublaslt_reset();
}
