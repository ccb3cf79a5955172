"""The device that torch sees, through torch.accelerator: no vendor is named here."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import resource
from typing import Any

import torch

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8": torch.bfloat16,  # of everything but the products of linear layers
}
LACKS = "CHIPASSAY_LACKS"  # kinds of number that chip.toml says the chip has not, with commas between


def choose(local_rank: int) -> torch.device:
    """The device of this rank, of the type that the chip names; RuntimeError where torch sees none of that type."""
    wanted = os.environ["CHIPASSAY_DEVICE"]
    if wanted == "cpu":
        return torch.device("cpu")
    if package := os.environ.get("CHIPASSAY_IMPORT"):  # a package that torch does not load by itself
        importlib.import_module(package)
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None or found.type != wanted:
        raise RuntimeError(f"the chip is a '{wanted}' to torch, which sees {found}")
    torch.accelerator.set_device_index(local_rank)
    return torch.device(wanted, local_rank)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done everything that was asked of it."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def backend(device: torch.device) -> str:
    """The collective library that torch prefers for the device; the chip's own word where torch has no opinion."""
    try:
        return torch.distributed.get_default_backend_for_device(device.type)
    except (AttributeError, ValueError, AssertionError):
        return os.environ["CHIPASSAY_COLLECTIVE"]


def name(device: torch.device) -> str:
    """What the device calls itself."""
    if device.type == "cpu":
        return platform.processor() or platform.machine()
    return str(torch.get_device_module(device).get_device_name(device))


def memory_bytes(device: torch.device) -> int:
    """Memory of the device in bytes, as its driver tells; on a CPU, of the host."""
    if device.type == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(torch.get_device_module(device).mem_get_info(device)[1])


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device, what torch has cached included; on a CPU, available on the host."""
    if device.type == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    module = torch.get_device_module(device)
    return int(module.mem_get_info(device)[0] + module.memory_reserved(device) - module.memory_allocated(device))


def forget_peak(device: torch.device) -> None:
    """Begin to watch for the largest allocation anew."""
    if device.type != "cpu":
        torch.get_device_module(device).reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Largest allocation so far in bytes; on a CPU, of this process as a whole."""
    if device.type == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(torch.get_device_module(device).max_memory_allocated(device))


class Unsupported(Exception):
    """The chip or its software lacks something that the case needs; one line."""


def needs(kind: str) -> None:
    """Unsupported where chip.toml says that the chip does not compute in this kind of number."""
    if kind in os.environ.get(LACKS, "").split(","):
        raise Unsupported(f"the chip does not compute in {kind}: supports.lacks of its chip.toml names it; leave the case out on this chip")


class OutOfMemory(Exception):
    """The device or the host has no more memory; one line with the peak and what to do."""


def out_of_memory(error: BaseException) -> bool:
    """Whether this is the device's or the host's way to say so; the host's allocator has no error type of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


UNSUPPORTED = re.compile(
    r"not[ _](implemented|supported|compiled)|unsupported|does(n't| not) support|needs to be (greater|divisible|a multiple)", re.IGNORECASE
)  # how torch and the libraries below it word that a kind of element, a shape or a way to copy is missing


def unsupported(error: BaseException) -> bool:
    """Whether the device or its software says that it has no such thing; a fault of the device or of memory is something else."""
    if isinstance(error, NotImplementedError):
        return True
    return isinstance(error, RuntimeError | TypeError | ValueError) and UNSUPPORTED.search(str(error)) is not None


def neighbour(device: torch.device) -> torch.device:
    """The next card of the same host; NotImplementedError where there is none."""
    if device.type == "cpu" or torch.accelerator.device_count() < 2:
        raise NotImplementedError("there is one card only")
    return torch.device(device.type, ((device.index or 0) + 1) % torch.accelerator.device_count())


def facts(device: torch.device) -> dict[str, Any]:
    """Fields of the `environment` event."""
    packages = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions() if dist.metadata["Name"]}
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device.type,
        "device_name": name(device),
        "packages": dict(sorted(packages.items())),
    }
