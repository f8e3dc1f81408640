#!/usr/bin/env bash
# Builds what checks and measures Prism on a machine with a GPU that has neither its sources nor LLVM: one folder of at most
# 60 MiB. Copy it there, then: gpu_suite.sh all
#
#   tools/gpu_bundle.sh [FOLDER]    default: build/gpu-bundle
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

readonly most_mib=60
folder=${1:-$root/build/gpu-bundle}
[[ $folder != -* && $# -le 1 ]] || { say "usage: $0 [FOLDER]"; exit 2; }
[[ ! -e $folder || -e $folder/gpu_suite.sh || -z $(ls -A "$folder") ]] || die "$folder: exists and is no bundle"

programs=(prism prism_tests prism_bench_gpu_kernels)
build "$root/build" "${programs[*]}" --
rm -rf "$folder"
mkdir -p "$folder/bin" "$folder/lib"
for program in "${programs[@]}"; do strip -o "$folder/bin/$program" "$root/build/$program"; done
# All libraries but those of the C and C++ compilers, which are there, and newer or as new.
ldd "$folder"/bin/* | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
  grep -vE '/(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s)\.so' |
  while read -r library; do strip -o "$folder/lib/$(basename "$library")" "$(realpath "$library")"; done
for script in gpu_suite.sh gpu_hf.py gpu_summary.py; do cp "$root/tools/$script" "$folder/"; done
# Compiled here for the CPU there: tokens to compare with. The tiny ones are for a quick check.
for shape in smollm2-135m tiny-llama; do
  for type in bf16 q4_k; do "$root/build/prism" compile "synth:$shape:$type" --isa avx2 -o "$folder/$shape-$type.prx" >&2; done
done
{ git -C "$root" describe --always --dirty 2>/dev/null || echo unknown; } >"$folder/commit"

mib=$(($(du -sk --apparent-size "$folder" | cut -f1) / 1024 + 1))
((mib <= most_mib)) || die "$folder: $mib MiB, expected at most $most_mib"
say "$folder: $mib MiB"
