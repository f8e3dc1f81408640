#include "runtime/emu/fiber.h"

namespace prism::rt::emu {

asm(R"(
.text
.globl prism_switch_fiber
.hidden prism_switch_fiber
.type prism_switch_fiber, @function
prism_switch_fiber:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size prism_switch_fiber, .-prism_switch_fiber
)");

void* prepare_fiber(uint8_t* stack, size_t bytes, void (*entry)()) {
  // From the top: the return address that `entry` will not use, `entry`, six zero registers.
  void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t(15));
  for (int i = 1; i <= 8; ++i) top[-i] = nullptr;
  top[-2] = reinterpret_cast<void*>(entry);
  return top - 8;
}

}  // namespace prism::rt::emu
