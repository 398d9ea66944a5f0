"""Which number format is fast here: a short probe, because no rule of thumb holds for every CPU and GPU."""

from __future__ import annotations

import time

import torch

_SIDE = 768  # large enough to leave the cache's reach, small enough for a probe of a fraction of a second
_GPU_SIDE = 8192
_WORTH = 1.3  # bf16 must be this much faster before its rounding is accepted


def probe_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where its matrix products are at least 1.3 times as fast as fp32's on this device, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # Several times in turn: what disturbs one measurement on a busy machine must not decide.
    rounds = [[_seconds(dtype, device) for dtype in (torch.float32, torch.bfloat16)] for _ in range(4)]
    fp32, bf16 = (min(column) for column in zip(*rounds, strict=True))
    return torch.bfloat16 if fp32 > _WORTH * bf16 else torch.float32


def _seconds(dtype: torch.dtype, device: torch.device, side: int = _SIDE) -> float:
    """Four products of [side, side]. Best of five: the least disturbed run is the machine's own speed."""
    a = torch.ones(side, side, dtype=dtype, device=device)
    gpu = device.type == "cuda"
    times = []
    for _ in range(6):
        start = time.perf_counter()
        for _ in range(4):
            a @ a
        if gpu:
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP a second of large matrix products in this format: the peak that a run's useful work is measured against."""
    side = _GPU_SIDE if device.type == "cuda" else _SIDE
    return 4 * 2 * side**3 / _seconds(dtype, device, side)


def default_device() -> torch.device:
    """The first CUDA device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
