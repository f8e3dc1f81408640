#include "runtime/gpu/cubin.h"

#include <elf.h>

#include <cstring>

namespace prism::rt::gpu {
namespace {

constexpr uint16_t kCudaMachine = 190;  // EM_CUDA

bool inside(uint64_t offset, uint64_t bytes, uint64_t size) { return offset <= size && bytes <= size - offset; }

}  // namespace

Status check_cubin(std::span<const uint8_t> code, const std::string& name) {
  Elf64_Ehdr header = {};
  if (code.size() < sizeof header) return error(name, ": found ", code.size(), " bytes of code, expected a cubin");
  std::memcpy(&header, code.data(), sizeof header);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != kCudaMachine)
    return error(name, ": found code that is no cubin, expected an ELF file for CUDA: compile it again");
  const auto cut_off = [&] { return error(name, ": found a cubin that is cut off after ", code.size(), " bytes: compile it again"); };
  if (header.e_shnum && header.e_shentsize != sizeof(Elf64_Shdr)) return error(name, ": found a cubin with a damaged header: compile it again");
  if (!inside(header.e_phoff, uint64_t(header.e_phnum) * header.e_phentsize, code.size())) return cut_off();
  if (!inside(header.e_shoff, uint64_t(header.e_shnum) * header.e_shentsize, code.size())) return cut_off();
  for (uint64_t i = 0; i < header.e_shnum; ++i) {
    Elf64_Shdr section;
    std::memcpy(&section, code.data() + header.e_shoff + i * sizeof section, sizeof section);
    const bool has_bytes = section.sh_type != SHT_NOBITS && section.sh_type < SHT_LOPROC;  // of CUDA's own kinds some have none
    if (has_bytes && !inside(section.sh_offset, section.sh_size, code.size())) return cut_off();
  }
  return ok();
}

}  // namespace prism::rt::gpu
