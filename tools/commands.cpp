#include "tools/commands.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

namespace prism::tools {

void print_json(const nlohmann::json& value) { printf("%s\n", value.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str()); }

std::pair<std::string, std::string> split_kv(const std::string& kv) {
  const size_t plus = kv.find('+');
  if (plus != kv.npos) return {kv.substr(0, plus), kv.substr(plus + 1)};
  return kv.empty() || kv[0] == 'k' || kv[0] == 'e' ? std::pair(std::string(), kv) : std::pair(kv, std::string());
}

std::string kv_label(const std::string& kv) {
  const size_t colon = kv.find(':');
  return colon == kv.npos ? kv : kv.substr(0, colon) + ", balanced";
}

std::string with_eviction(const std::string& pipeline, int64_t positions) {
  if (!positions) return pipeline;
  return "evict-kv{positions=" + std::to_string(positions) + "}" + (pipeline.empty() ? "" : "," + pipeline);
}

Result<std::string> read_text(const std::string& path) {
  if (path == "-") return std::string(std::istreambuf_iterator<char>(std::cin), {});
  std::ifstream in(path, std::ios::binary);
  if (!in) return error(path, ": cannot open: ", strerror(errno));
  std::string text((std::istreambuf_iterator<char>(in)), {});
  if (in.bad()) return error(path, ": cannot read: ", strerror(errno));
  return text;
}

}  // namespace prism::tools
