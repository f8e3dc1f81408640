// An entry's file: the XXH3-128 of the content, then the content.
#include "codegen/cache.h"

#define XXH_INLINE_ALL
#include <pwd.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>

namespace prism::codegen {
namespace {

namespace fs = std::filesystem;

using Hash = std::array<uint8_t, 16>;

Hash canonical(XXH128_hash_t hash) {
  XXH128_canonical_t big_endian;
  XXH128_canonicalFromHash(&big_endian, hash);
  return std::to_array(big_endian.digest);
}

/// Every part goes in with its length: {"ab", "c"} and {"a", "bc"} are different.
Hash hash_parts(const std::vector<std::string_view>& parts) {
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), &XXH3_freeState);
  XXH3_128bits_reset(state.get());
  for (std::string_view part : parts) {
    const uint64_t size = part.size();
    XXH3_128bits_update(state.get(), &size, sizeof size);
    XXH3_128bits_update(state.get(), part.data(), part.size());
  }
  return canonical(XXH3_128bits_digest(state.get()));
}

}  // namespace

std::string cache_directory() {
  fs::path path;
  if (const char* own = std::getenv("PRISM_CACHE"); own && *own) {
    path = own;
  } else if (const char* shared = std::getenv("XDG_CACHE_HOME"); shared && *shared) {
    path = fs::path(shared) / "prism";
  } else {
    const char* home = std::getenv("HOME");
    const passwd* user = home && *home ? nullptr : getpwuid(getuid());
    path = fs::path(user ? user->pw_dir : home ? home : ".") / ".cache" / "prism";
  }
  std::error_code ignored;  // whoever writes there reports what fails
  fs::create_directories(path, ignored);
  return path.string();
}

CacheEntry::CacheEntry(const std::string& folder, const std::vector<std::string_view>& made_from, const std::string& extension) {
  std::string name;
  for (uint8_t byte : hash_parts(made_from)) {
    name += "0123456789abcdef"[byte >> 4];
    name += "0123456789abcdef"[byte & 15];
  }
  path_ = (fs::path(cache_directory()) / folder / (name + extension)).string();
}

std::optional<std::vector<uint8_t>> CacheEntry::read() const {
  std::ifstream file(path_, std::ios::binary);
  if (!file) return std::nullopt;
  std::vector<uint8_t> bytes{std::istreambuf_iterator<char>(file), {}};
  Hash stored;
  if (bytes.size() <= stored.size()) return std::nullopt;
  std::copy_n(bytes.begin(), stored.size(), stored.begin());
  bytes.erase(bytes.begin(), bytes.begin() + stored.size());
  if (canonical(XXH3_128bits(bytes.data(), bytes.size())) != stored) return std::nullopt;
  return bytes;
}

void CacheEntry::write(const std::vector<uint8_t>& bytes) const {
  std::error_code ignored;
  fs::create_directories(fs::path(path_).parent_path(), ignored);
  std::string temporary = path_ + ".XXXXXX";
  const int descriptor = mkstemp(temporary.data());
  if (descriptor < 0) return;
  const Hash hash = canonical(XXH3_128bits(bytes.data(), bytes.size()));
  std::unique_ptr<FILE, decltype(&std::fclose)> file(fdopen(descriptor, "wb"), &std::fclose);
  const bool written = file && std::fwrite(hash.data(), 1, hash.size(), file.get()) == hash.size() &&
                       std::fwrite(bytes.data(), 1, bytes.size(), file.get()) == bytes.size() &&
                       std::fflush(file.get()) == 0;
  if (!written || std::rename(temporary.c_str(), path_.c_str()) != 0) unlink(temporary.c_str());
}

}  // namespace prism::codegen
