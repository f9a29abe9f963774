"""Which device and which arithmetic a run gets."""

from __future__ import annotations

import torch

from penstock.errors import InvalidInput

__all__ = ["choose_device", "wants_bfloat16"]


def choose_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is the first GPU, or the CPU.

    Raises:
        InvalidInput: There is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidInput(f"device {name!r} is no device: {error}", field="device") from error
    if device.type not in ("cpu", "cuda"):
        raise InvalidInput(f"device is {name!r}: expected auto, cpu or cuda[:N]", field="device")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise InvalidInput(
            f"device is {name!r}, but this machine shows {count} CUDA devices: use cpu",
            field="device",
        )
    return device


def wants_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether camera trunks compute in bfloat16.

    On a CPU without bfloat16 instructions it would be slower than float32, so ``auto`` asks.
    """
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Absent from older releases of torch; float32 is right everywhere.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
