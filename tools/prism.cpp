// The `prism` command.
#include "tools/commands.h"

#include <algorithm>
#include <csignal>
#include <cstdio>

namespace {

/// Says what went wrong in one line, whatever the message quotes from a file.
int fail(std::string message) {
  std::replace_if(message.begin(), message.end(), [](unsigned char c) { return c < 32 || c == 127; }, '?');
  fprintf(stderr, "prism: %s\n", message.c_str());
  return 1;
}

/// A wrong command line, with the help that tells more.
std::string usage_error(const CLI::App& app, const CLI::ParseError& e, int argc, char** argv) {
  const auto chosen = app.get_subcommands();
  if (!chosen.empty()) return chosen[0]->get_name() + ": " + e.what() + " (see prism " + chosen[0]->get_name() + " --help)";
  return (argc > 1 ? "found '" + std::string(argv[1]) + "', expected a subcommand" : std::string("a subcommand is required")) +
         " (see prism --help)";
}

}  // namespace

int main(int argc, char** argv) {
  using namespace prism::tools;
  signal(SIGPIPE, SIG_IGN);  // a closed pipe is a failed write, not a death
  CLI::App app{"Prism compiles language models and runs them.\n"
               "  prism run model.gguf -p \"Once upon a time\"     compile (cached) and generate\n"
               "  prism compile model.gguf -o model.prx           compile ahead of time\n"
               "  prism opt graph.prism --passes=cpu              run passes on IR text"};
  app.set_version_flag("--version", "prism " PRISM_VERSION);
  app.require_subcommand(1);
  Action chosen;
  for (auto* add : {add_run, add_compile, add_opt, add_eval, add_tokenize, add_bench, add_inspect, add_synth, add_quality, add_calibrate, add_quantize, add_plan_kv, add_roofline}) add(app, chosen);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return e.get_exit_code() == 0 ? app.exit(e) : fail(usage_error(app, e, argc, argv));  // 0: --help, --version
  }
  if (auto status = chosen(); !status) return fail(status.message());
  return fflush(stdout) == 0 && !ferror(stdout) ? 0 : fail("standard output: cannot write");
}
