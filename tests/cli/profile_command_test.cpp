// --profile: the file and the table say the same, and nothing is missing.
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/cli/command.h"

namespace prism::cli {
namespace {

using nlohmann::json;

struct Row {
  int64_t calls = 0;
  double ms = 0;
};

/// The table on standard error, by kernel and entry point.
std::map<std::pair<std::string, std::string>, Row> table(const std::string& err) {
  std::map<std::pair<std::string, std::string>, Row> rows;
  std::istringstream lines(err.substr(err.find("kernel  ")));
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line) && line.find(" steps took ") == line.npos) {
    std::istringstream words(line);
    std::string kernel, entry;
    Row row;
    words >> kernel >> entry >> row.calls >> row.ms;
    rows[{kernel, entry}] = row;
  }
  return rows;
}

TEST(ProfileCommand, EveryLaunchIsInTheFileAndTheTableAddsThemUp) {
  Workshop shop;
  const std::string prx = shop.path("tiny.prx"), trace = shop.path("trace.json");
  shop.must({"compile", shop.path("tiny.gguf"), "-o", prx, "--embed-weights"});
  const std::string inspected = shop.must({"inspect", prx});
  const auto launches_of = [&](const std::string& entry) { return std::stoi(inspected.substr(inspected.find("  " + entry + ": ") + entry.size() + 4)); };
  const Outcome o = shop.run({"run", prx, "-p", "abc", "-n", "9", "-t", "2", "--profile", trace});
  ASSERT_EQ(o.exit_code, 0) << o.err;

  std::map<std::string, int> count;  // by category
  std::map<std::pair<std::string, std::string>, Row> sums;
  std::vector<json> steps;
  double end_of_row[4] = {};
  const json events = json::parse(shop.read_text("trace.json"))["traceEvents"];
  for (const json& e : events) {
    if (e["ph"] != "X") continue;
    ++count[e["cat"]];
    const int row = e["tid"];
    ASSERT_LT(row, 4);
    EXPECT_GE(double(e["ts"]) + 1e-3, end_of_row[row]) << "spans of a row overlap: " << e;
    end_of_row[row] = double(e["ts"]) + double(e["dur"]);
    if (e["cat"] == "step") steps.push_back(e);
    if (e["cat"] == "launch") {
      EXPECT_FALSE(std::string(e["args"]["computes"]).empty());
      EXPECT_GE(double(e["args"]["busy %"]), 0);
      EXPECT_LE(double(e["args"]["busy %"]), 100.001);
      const auto step = std::find_if(steps.begin(), steps.end(), [&](const json& s) { return double(s["ts"]) + double(s["dur"]) >= double(e["ts"]) + double(e["dur"]); });
      ASSERT_NE(step, steps.end());
      Row& sum = sums[{e["name"], (*step)["name"]}];
      ++sum.calls;
      sum.ms += 1e-3 * double(e["dur"]);
    }
  }
  ASSERT_EQ(steps.size(), 9u);  // the prompt and eight tokens; nothing follows the last
  EXPECT_EQ(steps[0]["args"]["seq"], 3);
  EXPECT_EQ(steps[8]["args"]["past"], 10);
  EXPECT_EQ(count["launch"], launches_of("prefill") + 8 * launches_of("decode"));
  EXPECT_GE(count["share"], count["launch"]);
  EXPECT_GT(count["wait"], 0);
  const auto rows = table(o.err);
  ASSERT_EQ(rows.size(), sums.size());
  for (const auto& [key, sum] : sums) {
    ASSERT_TRUE(rows.contains(key)) << key.first << " " << key.second;
    EXPECT_EQ(rows.at(key).calls, sum.calls);
    EXPECT_NEAR(rows.at(key).ms, sum.ms, 0.002);
  }
}

TEST(ProfileCommand, BenchLeavesOutTheWarmUp) {
  Workshop shop;
  const Outcome o = shop.run({"bench", shop.path("tiny.gguf"), "-p", "16", "-n", "4", "-r", "2", "-t", "1", "--no-limits", "--profile", shop.path("trace.json")});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  int prefills = 0, decodes = 0;
  const json events = json::parse(shop.read_text("trace.json"))["traceEvents"];
  for (const json& e : events) {
    if (e["ph"] != "X" || e["cat"] != "step") continue;
    prefills += e["name"] == "prefill";
    decodes += e["name"] == "decode";
  }
  EXPECT_EQ(prefills, 2);
  EXPECT_EQ(decodes, 8);
}

TEST(ProfileCommand, IsRefusedWhereThereIsNothingToMeasure) {
  Workshop shop;
  const std::string gguf = shop.path("tiny.gguf"), trace = shop.path("trace.json");
  shop.must({"run", gguf, "-p", "a", "-n", "1"});
  shop.must({"run", gguf, "-p", "a", "-n", "1", "--target", "emu"});
  shop.must_fail({"run", gguf, "-p", "a", "--reference", "--profile", trace}, {"--profile", "--reference"});
  for (const char* command : {"run", "bench"}) {
    std::vector<std::string> arguments = {command, gguf, "-p", "1", "-n", "1", "--target", "emu", "--profile", trace};
    shop.must_fail(arguments, {"profile", "a program for GPUs", "CPUs"});
  }
  shop.must_fail({"bench", gguf, "-p", "1", "-n", "1", "--no-limits", "--profile", shop.path("no/trace.json")}, {"no/trace.json", "cannot write"});
}

}  // namespace
}  // namespace prism::cli
