#include "runtime/gpu/persistent.h"

#include <cstring>

namespace prism::rt::gpu {

Result<std::vector<uint8_t>> persistent_table(const Driver& driver, const std::vector<TableEntry>& launches) {
  std::vector<int64_t> head = {int64_t(launches.size())};
  std::vector<uint8_t> args;
  const size_t head_bytes = (1 + 3 * launches.size()) * sizeof(int64_t);
  for (const TableEntry& l : launches) {
    head.insert(head.end(), {l.kernel, l.blocks, int64_t(head_bytes + args.size())});
    PRISM_TRY(const auto bytes, driver.argument_bytes(l.args));
    args.insert(args.end(), bytes.begin(), bytes.end());
  }
  std::vector<uint8_t> table(head_bytes + args.size());
  std::memcpy(table.data(), head.data(), head_bytes);
  if (!args.empty()) std::memcpy(table.data() + head_bytes, args.data(), args.size());
  return table;
}

}  // namespace prism::rt::gpu
