// bench/compare/run.py with programs that only say numbers: which rows it measures, what it makes of the numbers, how it shows them.
#include <sys/stat.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "tests/cli/command.h"

namespace prism::cli {
namespace {

using nlohmann::json;

// Both write down how they were called. Prism's rates change from call to call: 30, 10, 20 and again, times the threads.
constexpr const char* kPrism = R"(#!/usr/bin/env python3
import json, os, sys
argument = lambda name: sys.argv[sys.argv.index(name) + 1]
log = os.path.join(os.path.dirname(sys.argv[0]), "prism.log")
with open(log, "a") as file:
    print(*sys.argv[1:], file=file)
rate = [20, 30, 10][sum(line.find("--no-limits") > 0 for line in open(log)) % 3]
threads = [int(t) for t in argument("-t").split(",")]
rows = [dict(phase=phase, tokens=int(n), median=rate * threads[0], bytes_per_token=100, operations_per_token=1000)
        for phase, option in (("prefill", "-p"), ("decode", "-n")) for n in argument(option).split(",") if n != "0"]
limit = dict(read_bytes_per_second=16000.0, int8_operations_per_second=1e5, bf16_operations_per_second=4e5, f32_operations_per_second=1e4)
limits = [] if "--no-limits" in sys.argv else [dict(threads=t, **limit) for t in threads]
print(json.dumps(dict(rows=rows, limits=limits)))
)";
constexpr const char* kLlamaBench = R"(#!/usr/bin/env python3
import json, os, sys
argument = lambda name: sys.argv[sys.argv.index(name) + 1]
with open(os.path.join(os.path.dirname(sys.argv[0]), "llama.log"), "a") as file:
    print(*sys.argv[1:], file=file)
rates = {("-p", 0): 60, ("-p", 1): 80, ("-n", 0): 32, ("-n", 1): 30}
print(json.dumps([dict(n_prompt=int(n) if option == "-p" else 0, n_gen=int(n) if option == "-n" else 0, flash_attn=bool(flash), avg_ts=rates[option, flash])
                  for option in ("-p", "-n") for n in argument(option).split(",") if n != "0" for flash in (0, 1)]))
)";
// For kv_quality.py: the same numbers whatever is asked.
constexpr const char* kPrismQuality = R"(#!/usr/bin/env python3
import json, os, sys
if sys.argv[1] == "compile":
    open(os.path.join(os.path.dirname(sys.argv[0]), "kv"), "w").write(sys.argv[sys.argv.index("--kv") + 1])
elif sys.argv[1] == "inspect":
    kv = open(os.path.join(os.path.dirname(sys.argv[0]), "kv")).read()
    print(f"at 8192 positions 5.00 MiB, 1.00 of them exact, {dict(k8v8=1.88, k4v3=3.92)[kv]:.2f} times less than in f16")
else:
    value = lambda v: dict(value=v, error=0.1)
    summary = lambda kl: dict(all=dict(kl=dict(mean=kl, error=1e-6), same_top=value(0.97), perplexity_change=value(0.004), base_perplexity=value(17.5), predictions=99))
    print(json.dumps(dict(variants=[summary(0.001 * (i + 1)) for i, _ in enumerate(sys.argv[sys.argv.index("--against-kv") + 1].split(","))])))
)";
constexpr const char* kLlamaPerplexity = R"(#!/usr/bin/env python3
print("""Mean PPL(base)                :  17.685726 ±   2.154209
Mean ln(PPL(Q)/PPL(base))     :  -0.000539 ±   0.001380
Mean    KLD:   0.000354 ±   0.000028
Same top p: 98.431 ± 0.551 %""")
)";
// run.py itself, with a name in place of every model.
constexpr const char* kRun = R"(
import sys
sys.path.insert(0, sys.argv.pop(1))
import engines, run
engines.model_path = lambda name, *_: name
run.main()
)";

class Compare : public testing::Test {
 protected:
  Compare() {
    for (const auto& [name, text] : {std::pair("prism", kPrism), std::pair("llama-bench", kLlamaBench), std::pair("llama-perplexity", kLlamaPerplexity)}) {
      shop.write_text(name, text);
      chmod(shop.path(name).c_str(), 0700);
    }
    shop.write_text("run.py", kRun);
    shop.binary = "/usr/bin/env";
    shop.variables = {"PATH=" + std::string(getenv("PATH")), "PYTHONDONTWRITEBYTECODE=1"};
  }
  Outcome compare(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments = {"python3", shop.path("run.py"), PRISM_SOURCE_DIR "/bench/compare", "--prism", shop.path("prism"),
                                          "--llama", shop.folder.path(), "--output", shop.path("result.json")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return shop.run(arguments);
  }
  static size_t count(const std::string& text, const std::string& part) {
    size_t n = 0;
    for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++n;
    return n;
  }

  Workshop shop;
};

TEST_F(Compare, MediansOfTurnsAgainstTheFasterSetting) {
  const Outcome o = compare({"m.gguf", "-p", "512", "-n", "64", "-r", "3"});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  const json result = json::parse(shop.read_text("result.json"));
  ASSERT_EQ(result["rows"].size(), 2u);
  const json &prefill = result["rows"][0], &decode = result["rows"][1];
  EXPECT_EQ(prefill["name"], "m.gguf prefill 512, 2 threads");
  EXPECT_EQ(prefill["prism"]["samples"], json({60, 20, 40}));
  EXPECT_EQ(prefill["prism"]["median"], 40);
  EXPECT_EQ(prefill["rivals"]["llama.cpp"]["median"], 80);
  EXPECT_EQ(prefill["rivals"]["llama.cpp"]["variant"], "-fa 1");
  EXPECT_EQ(prefill["ratios"]["llama.cpp"], 0.5);
  EXPECT_EQ(prefill["reached"], false);
  EXPECT_EQ(prefill["limit"], "bf16");
  EXPECT_EQ(prefill["of_limit"], 0.1);  // 1000 operations a token, 40 tokens/s
  EXPECT_EQ(decode["rivals"]["llama.cpp"]["variant"], "-fa 0");
  EXPECT_EQ(decode["ratios"]["llama.cpp"], 1.25);
  EXPECT_EQ(decode["reached"], true);
  EXPECT_EQ(decode["limit"], "read");
  EXPECT_EQ(decode["of_limit"], 0.25);
  for (const char* words : {"m.gguf prefill 512, 2 threads", "40.0 (20.0 to 60.0)", "80.0 (80.0 to 80.0)", "0.50", "NO", "10.0 % bf16", "25.0 % read", "llama.cpp -fa 0",
                            "1 of 2 bars reached"})
    EXPECT_NE(o.out.find(words), o.out.npos) << words << "\n" << o.out;
  // In turns: Prism once for the limits, then each three times.
  EXPECT_EQ(count(shop.read_text("prism.log"), "bench m.gguf"), 4u);
  EXPECT_EQ(count(shop.read_text("llama.log"), "-p 512 -n 64"), 3u);
}

TEST_F(Compare, ASetHasOneCommandForRowsOfAModelThreadsAndDepth) {
  const Outcome o = compare({"--set", "cpu", "--only", "smollm2-q4_1", "-r", "1"});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  const json result = json::parse(shop.read_text("result.json"));
  std::vector<std::string> names;
  for (const json& row : result["rows"]) names.push_back(row["name"]);
  EXPECT_EQ(names, (std::vector<std::string>{"smollm2-q4_1 prefill 512, 2 threads", "smollm2-q4_1 decode 64, 2 threads", "smollm2-q4_1 prefill 512, 1 thread",
                                             "smollm2-q4_1 decode 64, 1 thread", "smollm2-q4_1 decode 32 at 4096, 2 threads", "smollm2-q4_1 prefill 4096, 2 threads"}));
  const std::string ours = shop.read_text("prism.log"), theirs = shop.read_text("llama.log");
  EXPECT_EQ(count(ours, "\n"), 4u) << ours;
  EXPECT_EQ(count(ours, "-p 512,4096 -n 64 -d 0 -t 2 "), 1u) << ours;
  EXPECT_EQ(count(ours, "-p 0 -n 32 -d 4096 -t 2 "), 1u) << ours;
  EXPECT_EQ(count(theirs, "\n"), 3u) << theirs;
  EXPECT_EQ(count(theirs, "-p 0 -n 32 -d 4096"), 1u) << theirs;
}

TEST_F(Compare, CachesHaveTheirSizesAndLosses) {
  shop.write_text("prism", kPrismQuality);
  shop.write_text("run.py", R"(
import pathlib, sys
sys.path.insert(0, sys.argv.pop(1))
import engines, kv_quality
engines.model_path = lambda name, *_: name
object.__setattr__(engines.LLAMA_CPP, "programs", lambda: pathlib.Path(sys.argv[0]).parent)
kv_quality.main()
)");
  shop.write_text("text.txt", "words");
  const Outcome o = shop.run({"python3", shop.path("run.py"), PRISM_SOURCE_DIR "/bench/compare", "m.gguf", "--text", shop.path("text.txt"), "--kv", "k8v8,k4v3", "--prism",
                              shop.path("prism"), "--output", shop.path("result.json")});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  const json rows = json::parse(shop.read_text("result.json"))["rows"];
  ASSERT_EQ(rows.size(), 5u);
  EXPECT_EQ(rows[1]["kv"], "k4v3");
  EXPECT_EQ(rows[1]["times_smaller"], 3.92);
  EXPECT_EQ(rows[1]["kl"], 0.002);
  EXPECT_EQ(rows[2]["kv"], "q8_0");
  EXPECT_DOUBLE_EQ(double(rows[2]["times_smaller"]), 16 / 8.5);
  EXPECT_EQ(rows[2]["kl"], 0.000354);
  EXPECT_EQ(rows[2]["kl_error"], 0.000028);
  EXPECT_DOUBLE_EQ(double(rows[2]["same_top"]), 0.98431);
  EXPECT_NEAR(double(rows[2]["perplexity_change"]), -0.000539, 1e-6);
  EXPECT_NE(o.out.find("Prism k4v3"), o.out.npos) << o.out;
}

TEST_F(Compare, EveryRowOfTheSetIsMeasured) {
  const Outcome o = compare({"--set", "cpu", "-r", "1", "--threads-over"});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  const json result = json::parse(shop.read_text("result.json"));
  std::set<std::string> names;
  for (const json& row : result["rows"]) {
    names.insert(row["name"]);
    EXPECT_TRUE(row["rivals"].contains("llama.cpp")) << row["name"];
  }
  EXPECT_EQ(names.size(), result["rows"].size());
  for (const char* name : {"gemma3-q4_k_m prefill 512, 2 threads", "qwen2.5-q4_k_m decode 64, 2 threads", "smollm2-f16 decode 32, 2 threads",
                           "smollm2-q8_0 decode 32, 2 threads", "smollm2-q4_0 decode 32, 2 threads"})
    EXPECT_TRUE(names.contains(name)) << name;
  ASSERT_EQ(result["threads_over"].size(), 1u);
  const json& over = result["threads_over"][0];
  EXPECT_DOUBLE_EQ(over["ratio"], double(over["over"]["median"]) / double(over["normal"]["median"]));
  EXPECT_EQ(over["bar"], 0.9);
}

TEST_F(Compare, RefusesWhatItDoesNotKnow) {
  const auto refused = [&](const std::vector<std::string>& arguments, const std::string& words) {
    const Outcome o = compare(arguments);
    EXPECT_NE(o.exit_code, 0);
    EXPECT_NE(o.err.find(words), o.err.npos) << o.err;
    EXPECT_EQ(o.err.find("Traceback"), o.err.npos) << o.err;
  };
  refused({"--set", "cpu", "--only", "gpt9"}, "--only: found 'gpt9' in no row of cpu");
  refused({"--set", "gpu"}, "--set");
  refused({"--set", "cpu", "m.gguf"}, "--set: found m.gguf");
  refused({"m.gguf", "-r", "0"}, "--rounds: found 0");
}

}  // namespace
}  // namespace prism::cli
