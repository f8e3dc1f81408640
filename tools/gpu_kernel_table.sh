#!/usr/bin/env bash
# Writes docs/gpu_kernels.md: what the GPU kernels of some models take of a multiprocessor. Needs NVRTC, no GPU.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
get_nvrtc

prism=$root/build/prism
[[ -x $prism ]] || die "build/prism is missing; build it first"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

jobs=()
for model in synth:smollm2-135m:q4_1 synth:llama-3.2-1b:bf16 synth:llama-3.1-8b:q8_0 synth:llama-3.1-8b:q4_k_m; do
  for arch in sm_80 sm_90a; do
    table=$work/$(printf %02d ${#jobs[@]}).md
    printf '\n## %s, %s\n\n' "$model" "$arch" >"$table.title"
    "$prism" compile "$model" -o "$table.prx" --target "cuda:$arch" --kernels "$table" >&2 &
    jobs+=($!)
  done
done
for job in "${jobs[@]}"; do wait "$job" || die "a model does not compile"; done

{
  printf '%s\n' "# GPU kernels" "" \
    "Made by \`tools/gpu_kernel_table.sh\`. Registers and spilled bytes (stored and loaded) are of a thread, as the assembler counts them;" \
    "shared bytes are of a block. Kernels for \`sm_90a\` alone may use what only it has (wgmma), so each architecture is a compilation of its own."
  for table in "$work"/*.md; do cat "$table.title" "$table"; done
} >"$work/all"
mv "$work/all" "$root/docs/gpu_kernels.md"
