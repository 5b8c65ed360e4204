"""Peak FLOP/s of accelerators, from the vendors' data sheets."""

# Dense bf16 FLOP/s of one device, keyed by a substring of its name (Google's and NVIDIA's data
# sheets). jax names a v5p "TPU v5" and a v5e "TPU v5 lite".
PEAKS = {'v5p': 459e12, 'v6e': 918e12, 'v6 lite': 918e12, 'H100': 989e12, 'H800': 989e12,
         'H200': 989e12}


def peak_of(kind: str) -> float:
  """Dense bf16 FLOP/s of a device, from jax's ``device_kind``; 0 if unknown."""
  kind = 'TPU v5p' if kind == 'TPU v5' else kind
  return next((peak for name, peak in PEAKS.items() if name in kind), 0.0)
