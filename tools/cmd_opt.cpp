// prism opt: IR text in, passes, IR text out.
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>

#include "ir/op_info.h"
#include "ir/text.h"
#include "ir/verifier.h"
#include "passes/pass.h"
#include "tools/commands.h"
#include "tools/quantize/ranges.h"

namespace prism::tools {

namespace {

struct Options {
  std::string file, passes;
  bool print_after_all = false, print_before_all = false, verify_each = false, time_passes = false, list = false, list_ops = false;
  std::string reproducer;
};

/// docs/ops.md.
void list_ops() {
  printf("# Ops\n\nFrom `ir/ops.def`, by `prism opt --list-ops`; what the columns mean is explained there. An attribute without a default is "
         "required.\n\n| op | signature | attributes | levels |\n| --- | --- | --- | --- |\n");
  for (const ir::OpInfo& op : ir::all_ops()) {
    std::string attrs;
    for (const ir::AttrInfo& a : op.attrs)
      attrs += (attrs.empty() ? "" : ", ") + std::string(a.name) + (a.fallback ? "=" + ir::attr_str(*a.fallback) : "");
    const auto text = [](std::string_view s) { return std::string(s); };
    printf("| %s | `%s` | %s | %s to %s |\n", text(op.mnemonic).c_str(), text(op.signature).c_str(), attrs.c_str(),
           text(ir::level_name(op.from)).c_str(), text(ir::level_name(op.to)).c_str());
  }
}

Status run(const Options& o) {
  if (o.list_ops) {
    list_ops();
    return ok();
  }
  if (o.list) {
    for (const passes::PassInfo& p : passes::all_passes())
      printf("%-24s %s -> %s  %s%s%s%.*s%s\n", std::string(p.name).c_str(), std::string(ir::level_name(p.needs)).c_str(),
             std::string(ir::level_name(p.makes)).c_str(), std::string(p.summary).c_str(),
             p.precision == passes::Precision::Reduces ? "  (reduces precision)" : "", p.options.empty() ? "" : "  {",
             int(p.options.size()), p.options.data(), p.options.empty() ? "" : "}");
    return ok();
  }
  PRISM_TRY(const std::string text, read_text(o.file));
  PRISM_TRY(auto module, ir::parse(text, o.file));
  if (auto status = ir::verify(*module); !status) return error(o.file, ": ", status.message());
  PRISM_TRY(auto pipeline, passes::parse_pipeline(o.passes));
  PRISM_CHECK(quantize::annotate_ranges(*module, pipeline));
  passes::ManagerOptions m;
  m.print_after_all = o.print_after_all;
  m.verify_each = o.verify_each;
  m.print_before_all = o.print_before_all;
  m.reproducer = o.reproducer;
  passes::Manager manager(m);
  PRISM_CHECK(manager.run(*module, pipeline));
  fputs(ir::print(*module).c_str(), stdout);
  if (o.time_passes)
    for (const passes::PassTiming& t : manager.timings())
      fprintf(stderr, "%-24s %8.3f ms  %zu -> %zu ops\n", std::string(t.pass).c_str(), t.seconds * 1e3, t.ops_before, t.ops_after);
  return ok();
}

}  // namespace

void add_opt(CLI::App& app, Action& chosen) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("opt", "Run passes on IR text and print the result");
  c->add_option("file", o->file, "IR text (.prism), - for standard input");
  c->add_option("--passes", o->passes, "Pipeline, for example canonicalize,dce; \"cpu\" is the whole of it");
  c->add_flag("--print-after-all", o->print_after_all, "Print the module after every pass on stderr");
  c->add_flag("--print-before-all", o->print_before_all, "Print the module before every pass on stderr");
  c->add_flag("--verify-each", o->verify_each, "Verify after every pass, not only after the last");
  c->add_flag("--time-passes", o->time_passes, "Print the time of every pass on stderr");
  c->add_option("--reproducer", o->reproducer, "File written when a pass fails: its input and how to run it");
  c->add_flag("--list-passes", o->list, "List the passes");
  c->add_flag("--list-ops", o->list_ops, "List the ops as a Markdown table");
  c->callback([o, &chosen] {
    if (!o->list && !o->list_ops && o->file.empty()) throw CLI::RequiredError("file");
    chosen = [o] { return run(*o); };
  });
}

}  // namespace prism::tools
