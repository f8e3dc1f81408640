#include "runtime/code_object.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "runtime/prx_format.h"

namespace prism::rt {

Result<CodeObject> CodeObject::load(std::span<const uint8_t> elf, const std::string& name) {
  CodeObject object;
  object.fd_ = memfd_create("prism-kernels", MFD_CLOEXEC);
  if (object.fd_ < 0) return error(name, ": code: cannot create a file in memory: ", std::strerror(errno));
  for (size_t done = 0; done < elf.size();) {
    const ssize_t n = write(object.fd_, elf.data() + done, elf.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return error(name, ": code: cannot copy ", elf.size(), " bytes: ", std::strerror(errno));
    done += size_t(n);
  }
  // The descriptor stays open while the code is loaded: the loader knows objects by path, so its number must not be
  // reused.
  object.handle_ = dlopen(("/proc/self/fd/" + std::to_string(object.fd_)).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!object.handle_) return error(name, ": code: cannot load: ", dlerror());
  return object;
}

Result<size_t> choose_code(const std::vector<Code>& codes, Isa machine, const std::string& name) {
  std::optional<size_t> best;
  std::string found;
  for (size_t i = 0; i < codes.size(); ++i) {
    const Isa isa = *isa_from_name(codes[i].isa);  // validated
    if (isa <= machine && (!best || isa > *isa_from_name(codes[*best].isa))) best = i;
    found += (i ? ", " : "") + quoted(codes[i].isa);
  }
  if (best) return *best;
  if (codes.empty()) return error(name, ": code: found none, expected some for this machine");
  return error(name, ": code: found ", found, ", this machine has ", quoted(isa_name(machine)),
               ": recompile with --isa ", isa_name(machine));
}

Result<std::vector<size_t>> choose_gpu_codes(const std::vector<Code>& codes, const gpu::DeviceInfo& device, const std::string& name) {
  std::vector<size_t> chosen;
  std::string found;
  for (size_t i = 0; i < codes.size(); ++i) {
    if (codes[i].target == "emu" ? device.arch == "emu" && runs_here(*isa_from_name(codes[i].isa)) : codes[i].isa == device.arch) chosen.push_back(i);
    if (found.find(quoted(codes[i].isa)) == found.npos) found += (found.empty() ? "" : ", ") + quoted(codes[i].isa);
  }
  if (!chosen.empty()) return chosen;
  return error(name, ": code: found ", found, ", ", device.name, " needs ", quoted(device.arch), ": recompile with --target cuda:", device.arch);
}

CodeObject::~CodeObject() {
  if (handle_) dlclose(handle_);
  if (fd_ >= 0) close(fd_);
}

void* CodeObject::symbol(const std::string& name) const { return dlsym(handle_, name.c_str()); }

}  // namespace prism::rt
