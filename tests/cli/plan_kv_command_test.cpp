// prism plan-kv: plans that fit, that --kv takes, and that lose what prism quality says.
#include <nlohmann/json.hpp>

#include "tests/cli/command.h"

namespace prism::cli {
namespace {

using nlohmann::json;

class PlanKvCommand : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shop = new Workshop;
    std::string text;
    for (int i = 0; i < 400; ++i) text += "the " + std::to_string(i * i) + " ";
    shop->write_text("text.txt", text);
  }
  static void TearDownTestSuite() {
    delete shop;
    shop = nullptr;
  }
  static Workshop* shop;
  std::vector<std::string> command(std::vector<std::string> more) const {
    std::vector<std::string> arguments = {"plan-kv", "synth:tiny-llama:f32", "--text", shop->path("text.txt"), "--tokens", "400", "--bits", "k8v8,k4v3,k2v2"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
};
Workshop* PlanKvCommand::shop = nullptr;

TEST_F(PlanKvCommand, MoreBytesLoseLessAndPlansAreWhatTheySay) {
  double last = 1e9;
  for (const char* ratio : {"5", "1.8"}) {
    const json plan = json::parse(shop->must(command({"--ratio", ratio, "--json"})));
    EXPECT_GE(plan["ratio"].get<double>(), std::stod(ratio));
    EXPECT_EQ(plan["layers"].size(), 2u);
    for (const json& layer : plan["layers"]) {
      ASSERT_EQ(layer["options"].size(), 3u);
      EXPECT_LT(layer["options"][0]["kl_change"], 0) << "8 bits instead of 4";
      EXPECT_GT(layer["options"][2]["kl_change"], 0) << "2 bits";
      EXPECT_GT(layer["options"][0]["bytes"], layer["options"][1]["bytes"]);
    }
    EXPECT_LT(plan["kl"].get<double>(), last);
    last = plan["kl"];
    // The same text, plan and positions by the other command.
    const json quality = json::parse(shop->must({"quality", "synth:tiny-llama:f32", "--text", shop->path("text.txt"), "--limit", "400", "--ctx", "512", "--from", "192", "--no-noise",
                                                 "--against-kv", plan["plan"], "--json"}));
    EXPECT_NEAR(quality["variants"][0]["all"]["kl"]["mean"].get<double>(), last, 1e-12);
  }
}

TEST_F(PlanKvCommand, PrintsThePlanAlone) {
  const Outcome o = shop->run(command({"--budget", "8MB", "--positions", "2048"}));
  EXPECT_EQ(o.exit_code, 0) << o.err;
  EXPECT_EQ(o.out.substr(0, 7), "k8v8*2:");
  EXPECT_EQ(o.out.find('/'), size_t(7 + (o.out.size() - 9) / 2)) << o.out << "as many letters for either layer";
  EXPECT_EQ(shop->must(command({"--budget", "8MB", "--positions", "2048", "--balance", "0"})), "k8v8*2\n");
  EXPECT_NE(o.err.find("at 2048 positions"), std::string::npos) << o.err;
}

TEST_F(PlanKvCommand, Errors) {
  shop->must_fail(command({}), {"found neither --ratio nor --budget"});
  const Outcome small = shop->run(command({"--ratio", "15"}));   // it may have said that it compiles before
  EXPECT_EQ(small.exit_code, 1);
  EXPECT_EQ(small.out, "");
  EXPECT_NE(small.err.find("prism: found a budget of"), std::string::npos) << small.err;
  EXPECT_NE(small.err.find("(see --bits)"), std::string::npos) << small.err;
  shop->must_fail(command({"--ratio", "4", "--from", "500"}), {"found 400 tokens", "expected more than 500"});
  shop->must_fail({"plan-kv", "synth:tiny-llama:f32", "--text", shop->path("text.txt"), "--ratio", "4", "--bits", "k4v3,k9v3"}, {"--bits: expected bits of keys and values", "k9v3"});
  shop->must_fail({"plan-kv", "synth:tiny-llama:f32", "--text", shop->path("text.txt"), "--ratio", "4", "--bits", "k4v3,k4v3"}, {"--bits: found k4v3 twice"});
}

}  // namespace
}  // namespace prism::cli
