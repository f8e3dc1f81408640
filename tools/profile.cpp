#include "tools/profile.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "runtime/work.h"

namespace prism::tools {
namespace {

using nlohmann::json;

/// 10^9 in a second, as nanoseconds divide.
double rate(int64_t amount, int64_t ns) { return ns > 0 ? double(amount) / double(ns) : 0; }
double percent(int64_t part, int64_t whole) { return whole > 0 ? 100 * double(part) / double(whole) : 0; }

/// Writes one event after the other; all times are since the first step's beginning.
class Trace {
 public:
  Trace(const std::string& path, int64_t start) : out_(path, std::ios::binary), start_(start) { out_ << "{\"displayTimeUnit\": \"ns\", \"traceEvents\": ["; }

  void row(int id, const std::string& name) {
    event({{"ph", "M"}, {"name", "thread_name"}, {"args", {{"name", name}}}}, id);
    event({{"ph", "M"}, {"name", "thread_sort_index"}, {"args", {{"sort_index", id}}}}, id);
  }
  void span(int row, const std::string& name, const char* category, rt::Profile::Span time, json args) {
    event({{"ph", "X"}, {"name", name}, {"cat", category}, {"ts", 1e-3 * double(time.from - start_)}, {"dur", 1e-3 * double(time.length())}, {"args", std::move(args)}}, row);
  }
  bool close() {
    out_ << "\n]}\n";
    out_.close();
    return bool(out_);
  }

 private:
  void event(json e, int row) {
    e["pid"] = 1;
    e["tid"] = row;
    out_ << (first_ ? "\n" : ",\n") << e.dump(-1, ' ', false, json::error_handler_t::replace);
    first_ = false;
  }

  std::ofstream out_;
  int64_t start_;
  bool first_ = true;
};

std::vector<std::string> weights_of(const rt::Launch& l, const rt::Program& p) {
  std::vector<std::string> names;
  for (const rt::Arg& a : l.args)
    if (a.space == rt::Space::Weight) names.push_back(p.weights[a.index].name);
  return names;
}

}  // namespace

Result<std::vector<KernelTotal>> kernel_totals(const rt::Profile& profile, const rt::Program& p) {
  std::map<std::pair<size_t, size_t>, KernelTotal> totals;
  for (const rt::Profile::Launch& l : profile.launches(p)) {
    const rt::Profile::Step& step = profile.steps()[l.step];
    const size_t kernel = p.entries[step.entry].launches[l.launch].kernel;
    PRISM_TRY(const rt::Amounts a, rt::amounts_of(p.kernels[kernel], step.dims));
    KernelTotal& t = totals[{step.entry, kernel}];
    t = {step.entry, kernel, t.calls + 1, t.ns + l.time.length(), t.busy_ns + l.busy, t.bytes + a.bytes(), t.operations + a.operations};
  }
  std::vector<KernelTotal> sorted;
  for (const auto& [key, total] : totals) sorted.push_back(total);
  std::stable_sort(sorted.begin(), sorted.end(), [](const KernelTotal& a, const KernelTotal& b) { return a.ns > b.ns; });
  return sorted;
}

Status write_trace(const rt::Profile& profile, const rt::Program& p, const std::string& path) {
  constexpr int kSteps = 0, kLaunches = 1, kThreads = 2;  // rows
  const auto& steps = profile.steps();
  Trace trace(path, steps.empty() ? 0 : steps[0].time.from);
  trace.row(kSteps, "steps");
  trace.row(kLaunches, "launches");
  for (size_t t = 0; t < profile.threads(); ++t) trace.row(kThreads + int(t), "thread " + std::to_string(t));
  for (const rt::Profile::Step& s : steps) {
    json dims;
    for (size_t d = 0; d < p.dims.size(); ++d) dims[p.dims[d]] = s.dims[d];
    trace.span(kSteps, p.entries[s.entry].name, "step", s.time, dims);
  }
  const auto kernel = [&](uint32_t step, uint32_t launch) -> const rt::Kernel& { return p.kernels[p.entries[steps[step].entry].launches[launch].kernel]; };
  for (const rt::Profile::Launch& l : profile.launches(p)) {
    const rt::Profile::Step& step = steps[l.step];
    const rt::Kernel& k = kernel(l.step, l.launch);
    PRISM_TRY(const rt::Amounts a, rt::amounts_of(k, step.dims));
    const int64_t ns = l.time.length();
    trace.span(kLaunches, k.symbol, "launch", l.time,
               {{"launch", l.launch}, {"computes", k.computes}, {"weights", weights_of(p.entries[step.entry].launches[l.launch], p)},
                {"weight_bytes", a.weights}, {"kv_bytes", a.kv}, {"activation_bytes", a.activations}, {"GB/s", rate(a.bytes(), ns)},
                {"operations", a.operations}, {"GOP/s", rate(a.operations, ns)}, {"busy %", percent(l.busy, ns * int64_t(profile.threads()))}});
  }
  for (size_t t = 0; t < profile.threads(); ++t) {
    const int row = kThreads + int(t);
    const auto& shares = profile.shares(t);
    size_t next = 0;
    for (uint32_t s = 0; s < steps.size(); ++s) {
      int64_t free_from = steps[s].time.from;
      const auto wait = [&](int64_t until) {
        if (until > free_from) trace.span(row, "wait", "wait", {free_from, until}, json::object());
      };
      for (; next < shares.size() && shares[next].step == s; ++next) {
        const rt::Profile::Share& share = shares[next];
        wait(share.time.from);
        trace.span(row, kernel(s, share.launch).symbol, "share", share.time, {{"launch", share.launch}, {"tasks", {share.begin, share.end}}});
        free_from = share.time.to;
      }
      wait(steps[s].time.to);
    }
  }
  return trace.close() ? ok() : Status(error(path, ": cannot write"));
}

Status print_profile(const rt::Profile& profile, const rt::Program& p) {
  PRISM_TRY(const auto totals, kernel_totals(profile, p));
  const int64_t threads = int64_t(profile.threads());
  int64_t ns = 0, busy = 0, stepped = 0;
  for (const KernelTotal& t : totals) {
    ns += t.ns;
    busy += t.busy_ns;
  }
  for (const rt::Profile::Step& s : profile.steps()) stepped += s.time.length();
  fprintf(stderr, "\n%-20s %-9s %7s %10s %6s %6s %8s %9s  %s\n", "kernel", "entry", "calls", "ms", "%", "busy", "GB/s", "GOP/s", "computes");
  for (const KernelTotal& t : totals) {
    const rt::Kernel& k = p.kernels[t.kernel];
    fprintf(stderr, "%-20s %-9s %7lld %10.3f %6.1f %6.1f %8.2f %9.2f  %s\n", k.symbol.c_str(), p.entries[t.entry].name.c_str(), (long long)t.calls, 1e-6 * double(t.ns),
            percent(t.ns, ns), percent(t.busy_ns, t.ns * threads), rate(t.bytes, t.ns), rate(t.operations, t.ns), k.computes.c_str());
  }
  fprintf(stderr, "%zu steps took %.3f ms, their launches %.3f ms, in which %lld threads were busy %.1f %% of the time\n", profile.steps().size(), 1e-6 * double(stepped),
          1e-6 * double(ns), (long long)threads, percent(busy, ns * threads));
  return ok();
}

Status report_profile(const rt::Profile& profile, const rt::Program& p, const std::string& path) {
  PRISM_CHECK(write_trace(profile, p, path));
  return print_profile(profile, p);
}

}  // namespace prism::tools
