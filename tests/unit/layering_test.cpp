// Dependencies between the folders go one way (CMakeLists.txt links them the same way). What each room includes is read
// from its sources, so a forbidden #include fails here with its file and line even where it happens to compile.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

const fs::path kRoot = PRISM_SOURCE_DIR;

// Beside itself and runtime/base (errors, checked arithmetic, half floats), which every room may include.
const std::map<std::string, std::set<std::string>> kMayInclude = {
    {"runtime", {}},
    {"ir", {}},
    {"passes", {"ir"}},
    {"frontends", {"ir"}},
    {"codegen", {"passes", "ir", "runtime"}},
    {"analysis", {"ir", "runtime"}},
    {"quantize", {"frontends", "ir", "runtime"}},
    {"tools", {"runtime", "ir", "passes", "frontends", "codegen", "analysis", "quantize"}},
};

/// Problems of one source line of `room`, or "". `#include <llvm/...>` and the like matter too: runtime is std only.
std::string problem(const std::string& room, const std::string& line) {
  const size_t hash = line.find_first_not_of(" \t");
  if (hash == std::string::npos || line[hash] != '#') return "";
  const size_t word = line.find_first_not_of(" \t", hash + 1);
  if (word == std::string::npos || line.compare(word, 7, "include") != 0) return "";
  const size_t open = line.find_first_of("\"<", word + 7);
  if (open == std::string::npos) return "includes a macro";
  const std::string header = line.substr(open + 1, line.find_first_of("\">", open + 1) - open - 1);
  if (room == "runtime" && (header.starts_with("llvm/") || header.starts_with("clang/") || header.starts_with("lld/")))
    return "runtime includes " + header;
  if (header.starts_with("runtime/base/")) return "";
  const std::string folder = header.substr(0, header.find('/'));
  if (folder == room || !kMayInclude.contains(folder)) return "";
  return kMayInclude.at(room).contains(folder) ? "" : room + " includes " + header;
}

bool is_source(const fs::path& path) {
  const std::string extension = path.extension().string();
  return extension == ".cpp" || extension == ".h" || extension == ".def";
}

TEST(Layering, NoRoomIncludesOneItMustNotKnow) {
  for (const auto& [room, _] : kMayInclude) {
    if (!fs::exists(kRoot / room)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / room)) {
      if (!is_source(entry.path())) continue;
      std::ifstream file(entry.path());
      int number = 0;
      for (std::string line; std::getline(file, line);) {
        ++number;
        const std::string found = problem(room, line);
        EXPECT_EQ(found, "") << fs::relative(entry.path(), kRoot).string() << ":" << number;
      }
    }
  }
}

TEST(Layering, TheRoomsAreWhereTheTestLooks) {
  for (const char* room : {"runtime", "ir", "passes", "frontends", "codegen", "tools"})
    EXPECT_TRUE(fs::is_directory(kRoot / room)) << room;
}

TEST(Layering, OnlyTheCompilerLibraryIncludesClangOrLld) {
  for (const auto& [room, _] : kMayInclude) {
    if (!fs::exists(kRoot / room)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / room)) {
      if (!is_source(entry.path()) || entry.path() == kRoot / "codegen/cpu/jit.cpp") continue;
      std::ifstream file(entry.path());
      for (std::string line; std::getline(file, line);)
        EXPECT_FALSE(line.starts_with("#include <clang/") || line.starts_with("#include <lld/"))
            << fs::relative(entry.path(), kRoot).string() << ": " << line;
    }
  }
}

TEST(Layering, TheRuleItself) {
  EXPECT_EQ(problem("ir", "#include \"ir/type.h\""), "");
  EXPECT_EQ(problem("ir", "#include \"runtime/base/result.h\""), "");
  EXPECT_EQ(problem("ir", "#include \"passes/pass.h\""), "ir includes passes/pass.h");
  EXPECT_EQ(problem("ir", "  # include \"runtime/session.h\""), "ir includes runtime/session.h");
  EXPECT_EQ(problem("runtime", "#include \"ir/type.h\""), "runtime includes ir/type.h");
  EXPECT_EQ(problem("runtime", "#include <llvm/ADT/StringRef.h>"), "runtime includes llvm/ADT/StringRef.h");
  EXPECT_EQ(problem("frontends", "#include \"codegen/pack.h\""), "frontends includes codegen/pack.h");
  EXPECT_EQ(problem("codegen", "#include \"passes/pass.h\""), "");
  EXPECT_EQ(problem("tools", "#include \"codegen/pack.h\""), "");
  EXPECT_EQ(problem("ir", "int x;  // no include"), "");
}

}  // namespace
