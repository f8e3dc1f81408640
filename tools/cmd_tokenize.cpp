// prism tokenize: NUL-separated texts <-> lines of ids.
#include <cstdio>
#include <iostream>

#include "tools/commands.h"
#include "tools/model.h"

namespace prism::tools {

namespace {

struct Options {
  std::string model;
  bool detokenize = false;
};

Status run(const Options& o) {
  PRISM_TRY(auto tokenizer, load_tokenizer(o.model));
  if (o.detokenize) {
    std::string line;
    for (bool first = true; std::getline(std::cin, line); first = false) {
      PRISM_TRY(auto ids, parse_ids(line));
      for (int32_t id : ids)
        if (id < 0 || size_t(id) >= tokenizer->size()) return error("id ", id, " is outside the vocabulary, expected 0 to ", tokenizer->size() - 1);
      if (!first) std::cout.put('\0');
      std::cout << tokenizer->decode(ids, true);
    }
    return ok();
  }
  const std::string input((std::istreambuf_iterator<char>(std::cin)), {});
  for (size_t at = 0;;) {
    const size_t end = std::min(input.find('\0', at), input.size());
    PRISM_TRY(auto ids, tokenizer->encode(std::string_view(input).substr(at, end - at)));
    for (size_t i = 0; i < ids.size(); ++i) std::cout << (i ? "," : "") << ids[i];
    std::cout << "\n";
    if (end == input.size()) return ok();
    at = end + 1;
  }
}

}  // namespace

void add_tokenize(CLI::App& app, Action& chosen) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("tokenize", "Texts separated by NUL on stdin -> one line of ids each, without BOS");
  c->add_option("model", o->model, kModelOrPrxHelp)->required();
  c->add_flag("--detokenize", o->detokenize, "Lines of ids on stdin -> texts separated by NUL");
  c->callback([o, &chosen] { chosen = [o] { return run(*o); }; });
}

}  // namespace prism::tools
