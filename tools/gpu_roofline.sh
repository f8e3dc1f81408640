#!/usr/bin/env bash
# Writes docs/gpu_roofline.md: what GPUs allow some models at most, kernel by kernel. Needs NVRTC, no GPU.
#
#   tools/gpu_roofline.sh [PAGE]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
get_nvrtc

page=${1:-$root/docs/gpu_roofline.md}
prism=$root/build/prism
[[ -x $prism ]] || die "build/prism is missing; build it first"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# model, architecture, KV cache
rows=(
  "smollm2-135m:q4_1 sm_90a f16" "llama-3.2-1b:bf16 sm_90a f16" "llama-3.1-8b:bf16 sm_90a f16" "llama-3.1-8b:q8_0 sm_90a f16"
  "llama-3.1-8b:q4_k sm_90a f16" "llama-3.1-8b:q4_k_m sm_90a f16" "llama-3.1-8b:q4_k_m sm_90a k4v3" "gemma-3-270m:q4_k_m sm_90a f16"
  "llama-3.2-1b:bf16 sm_80 f16" "llama-3.1-8b:q4_k_m sm_80 f16"
)
for i in "${!rows[@]}"; do
  read -r model arch kv <<<"${rows[i]}"
  say "$model, $arch, $kv"
  "$prism" roofline "synth:$model" --target "cuda:$arch" --kv "$kv" -d 0,4096,32768 -p 2048 >"$work/$(printf %02d "$i")" || die "$model does not compile"
done

{
  printf '%s\n' "# GPU roofline" "" \
    "Made by \`tools/gpu_roofline.sh\` from what the compiler knows; no GPU measured anything here. What a measured speed is a fraction of is in [gpu.md](gpu.md)." "" \
    "A launch takes at least as long as its bytes do at the memory's speed or its operations at that of \`wgmma\`, \`mma\` or the cores, whichever it uses (*limit*). A multiprocessor with more blocks" \
    "than others makes it longer, as if bandwidth were shared evenly (*uneven*), and each launch of a graph adds 1.3 us (*boundaries*). *In turns* says how often a launch fills all multiprocessors, by the" \
    "threads, registers and shared memory of its blocks; registers and spilled bytes are of a thread, shared bytes of a block. Kernels are sorted by what is lost." "" \
    "| model | GPU, KV cache | | launches | MB | GFLOP | limit, us | uneven, us | boundaries, us | bound, tokens/s | without losses |" "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
  for i in "${!rows[@]}"; do
    read -r model arch kv <<<"${rows[i]}"
    awk -v row="| $model | $arch, $kv " '/^\| (decode|prefill)/ { print row $0 } /^\| kernel/ { exit }' "$work/$(printf %02d "$i")"
  done
  for i in "${!rows[@]}"; do
    read -r model arch kv <<<"${rows[i]}"
    printf '\n## %s, %s, %s\n\n' "$model" "$arch" "$kv"
    cat "$work/$(printf %02d "$i")"
  done
} >"$work/all"
mv "$work/all" "$page"
