// A warp's share of wgmma: the products under way, which read shared memory until they are waited for.
#pragma once

#include <array>
#include <map>
#include <string>
#include <vector>

#include "runtime/emu/shared.h"

namespace prism::rt::emu {

struct Product {
  int n = 0;                       ///< columns of the sum, rows of b
  size_t a = 0, b = 0;             ///< bytes in the block's shared memory: the warp's 16 rows of a, all of b
  std::array<float*, 32> sums{};   ///< a lane's n / 2 values
};

class WarpProducts {
 public:
  void fence() { fenced_ = true; }
  /// "" or what is wrong. The sums are not numbers until they are waited for. fenced: SharedMemory::begin_product.
  std::string issue(SharedMemory& shared, const Product& p, const Access& now, const std::vector<uint32_t>& fenced);
  void commit();
  void wait(SharedMemory& shared, size_t groups, const Access& now);

 private:
  struct Held {
    std::vector<float> values;     ///< of lane 0, 1, ...
    int under_way = 0;             ///< products that add to it
  };
  void finish(SharedMemory& shared, const Product& p, const Access& now);

  bool fenced_ = false;
  std::vector<std::vector<Product>> groups_;   ///< oldest first
  std::vector<Product> open_;
  std::map<float*, Held> held_;                ///< by lane 0's
};

}  // namespace prism::rt::emu
