#include "frontends/gguf/model.h"

#include "frontends/gguf/arch_builder.h"
#include "frontends/gguf/quote.h"

namespace prism::gguf {

#define ARCH(name) ir::Value* build_##name(ArchBuilder& a);
#include "frontends/gguf/archs.def"

namespace {

struct Architecture {
  const char* name;
  ir::Value* (*build)(ArchBuilder&);  ///< returns the logits
};
constexpr Architecture kArchitectures[] = {
#define ARCH(name) {#name, build_##name},
#include "frontends/gguf/archs.def"
};

}  // namespace

Result<std::unique_ptr<ir::Module>> build_module(std::shared_ptr<File> file, const ModelOptions& options) {
  PRISM_TRY(const std::string name, file->get_string("general.architecture"));
  std::string known;
  for (const Architecture& arch : kArchitectures) {
    if (name == arch.name) {
      ArchBuilder builder(file, name, options);
      if (auto status = builder.status(); !status) return status.err();
      return builder.finish(arch.build(builder));
    }
    known += (known.empty() ? "" : ", ") + std::string(arch.name);
  }
  return error(file->name(), ": general.architecture is ", quote(name), ", expected one of ", known);
}

}  // namespace prism::gguf
