// prism eval: logits of given ids.
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "tools/commands.h"
#include "tools/model.h"

namespace prism::tools {

namespace {

struct Options {
  std::string model, ids, out, isa, target, kv;
  unsigned threads = 0;
  bool reference = false, prefill = false;
};

Status run(const Options& o) {
  std::string list = o.ids;
  if (!list.empty() && list[0] == '@') {
    PRISM_TRY(list, read_text(list.substr(1)));
  }
  PRISM_TRY(auto ids, parse_ids(list));
  if (ids.empty()) return error("--ids: found none, expected at least one");
  std::unique_ptr<rt::Session> session;
  if (o.reference) {
    PRISM_TRY(session, reference_session(o.model, o.kv));
  } else {
    PRISM_TRY(auto model, load_model(o.model, {o.threads, {o.isa}, o.target, o.kv}));
    PRISM_TRY(session, about(o.model, rt::Session::create(model.executable, {o.threads, int64_t(ids.size())})));
  }
  const std::string partial = o.out + ".partial";
  std::ofstream out(partial, std::ios::binary);
  if (!out) return error(o.out, ": cannot write: ", strerror(errno));
  auto write = [&](size_t, std::span<const float> row) { out.write(reinterpret_cast<const char*>(row.data()), std::streamsize(row.size_bytes())); };
  auto prefill = [&]() -> Status {
    for (size_t i = 0; i < ids.size(); ++i) {
      PRISM_CHECK(session->feed(std::span(ids).subspan(i, 1)));
      PRISM_TRY(auto row, session->logits());
      write(i, row);
    }
    return ok();
  };
  if (auto status = about(o.model, o.prefill ? prefill() : session->score(ids, write)); !status) {
    std::remove(partial.c_str());
    return status.err();
  }
  out.close();
  if (!out || std::rename(partial.c_str(), o.out.c_str()) != 0) {
    const Error failure = error(o.out, ": cannot write: ", strerror(errno));
    std::remove(partial.c_str());
    return failure;
  }
  return ok();
}

}  // namespace

void add_eval(CLI::App& app, Action& chosen) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("eval", "Write the logits of a list of ids: float32, row-major [ids, vocab]");
  c->add_option("model", o->model, kModelOrPrxHelp)->required();
  c->add_option("--ids", o->ids, "1,2,3 or @FILE")->required();
  c->add_option("--logits", o->out, "File to write")->required();
  c->add_flag("--prefill", o->prefill, "Logits as a prompt's kernels compute them instead of those that generate (slower)");
  c->add_flag("--reference", o->reference, "Use the reference evaluator (f32 weights, activations and cache)");
  add_threads(*c, o->threads);
  add_target(*c, o->target);
  add_isa(*c, o->isa);
  add_kv(*c, o->kv);
  c->callback([o, &chosen] { chosen = [o] { return run(*o); }; });
}

}  // namespace prism::tools
