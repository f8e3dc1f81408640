// The `prism` command.
#include "tools/commands.h"

#include <algorithm>
#include <csignal>
#include <cstdio>

int main(int argc, char** argv) {
  using namespace prism::tools;
  signal(SIGPIPE, SIG_IGN);  // a closed pipe is a failed write, not a death
  CLI::App app{"Prism compiles language models and runs them.\n"
               "  prism run model.gguf -p \"Once upon a time\"     compile (cached) and generate\n"
               "  prism compile model.gguf -o model.prx           compile ahead of time\n"
               "  prism opt graph.prism --passes=cpu              run passes on IR text"};
  app.set_version_flag("--version", "prism " PRISM_VERSION);
  app.require_subcommand(1);
  app.failure_message(CLI::FailureMessage::simple);
  Action chosen;
  for (auto* add : {add_run, add_compile, add_opt, add_eval, add_tokenize, add_bench, add_inspect}) add(app, chosen);
  CLI11_PARSE(app, argc, argv);
  if (auto status = chosen(); !status) {
    std::string line = status.message();  // what it quotes may come from any file
    std::replace_if(line.begin(), line.end(), [](unsigned char c) { return c < 32 || c == 127; }, '?');
    fprintf(stderr, "prism: %s\n", line.c_str());
    return 1;
  }
  return fflush(stdout) == 0 ? 0 : 1;
}
