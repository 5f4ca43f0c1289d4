#!/bin/sh
# Speed, memory and rounding on one H100 or H200, in some eleven minutes: sh bench/gpu.sh [DIR]. Needs this package, or jax with
# CUDA, flax, optax, scipy, safetensors and ml_collections beside this folder. PYTHON names another interpreter.
set -eu
cd "$(dirname "$0")/.."
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-.92}"
# Large products are cuBLAS's: trying Triton's tiles for each takes minutes.
export XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_enable_triton_gemm=false"
out="${1:-runs/gpu}"
[ $# -eq 0 ] || shift
exec "${PYTHON:-python3}" bench/gpu.py --out "$out" "$@"
