// The cache on disk of what compilers produced.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace prism::codegen {

/// $PRISM_CACHE, else $XDG_CACHE_HOME/prism, else ~/.cache/prism; created on first use.
std::string cache_directory();

/// One file in a folder of the cache, named by the hash of what its content was made from.
class CacheEntry {
 public:
  CacheEntry(const std::string& folder, const std::vector<std::string_view>& made_from, const std::string& extension);

  std::optional<std::vector<uint8_t>> read() const;   ///< nullopt if it is not there or not as it was written
  /// A cache that cannot be written costs time, not correctness: failures are not reported.
  void write(const std::vector<uint8_t>& bytes) const;

 private:
  std::string path_;
};

}  // namespace prism::codegen
