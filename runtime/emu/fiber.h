// Switching stacks within one system thread (x86-64 System V).
#pragma once

#include <cstddef>
#include <cstdint>

namespace prism::rt::emu {

/// The stack pointer of a fiber that will run `entry` (which never returns) on the `bytes` bytes at `stack`.
void* prepare_fiber(uint8_t* stack, size_t bytes, void (*entry)());

/// Leaves the running fiber, whose stack pointer goes to `save`, for another.
extern "C" void prism_switch_fiber(void** save, void* to);

}  // namespace prism::rt::emu
