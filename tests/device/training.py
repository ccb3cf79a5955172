"""Everything that a short time on one card must tell about training, in one call: ours beside the plain loop, float8, first steps, whole models.

    python -m tests.device.training OUT [--scale card] [--seconds 470] [PART ...]

Parts, the most important first: 7b-width and 1.3b (ours, the plain loop and float8 in processes of their own that take turns on
the card; recording on and off; a profile), curve, internlm-7b, first-step, lora, sft, packed. Each has a time of its own at which it
is ended, and what it found until then stays in OUT/PART.json; OUT/summary.json says how each part ended. Scale `tiny` rehearses all of it
on any machine, `compiled` the same with a compiler, `cpu` is what docs/benchmarks/training.md has of a CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.device.training_parts import SCALES, WORD, Kept, Scale, rate

SIDES = {"7b-width": ("plain", "ours", "float8"), "1.3b": ("plain", "ours")}
SECONDS = {"7b-width": 150, "1.3b": 110, "curve": 90, "internlm-7b": 80, "first-step": 70, "lora": 60, "sft": 70, "packed": 45}
PEAK_GB = {"7b-width": {"plain": 45, "ours": 50, "float8": 45}, "1.3b": {"plain": 60, "ours": 60}}  # about, at scale card
OVERHEAD_STEPS = 10
LEAST_S = 10  # with less left, no part is begun
MODULE = "tests.device.training_parts"


class Late(Exception):
    """A part outlasted its time."""


class Process:
    """A part in a process of its own; its lines are read by a thread, so that waiting for one can end."""

    def __init__(self, name: str, out: Path, scale: str, deadline: float, **variables: str) -> None:
        self.began, self.deadline = time.monotonic(), deadline
        log = (out / f"{name.replace('/', '-')}.log").open("ab")
        if scale != "card":  # a rehearsal on a busy machine: threads that wait for each other would take all its time
            variables |= {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen([sys.executable, "-m", MODULE, name, str(out), scale], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=ROOT,
                                        env=os.environ | variables, start_new_session=True)  # fmt: skip
        log.close()
        self.said: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            text = line.decode(errors="replace")
            if text.startswith(WORD):
                self.said.put(text.removeprefix(WORD))
            else:
                print(text, end="", flush=True)
        self.said.put(None)

    def hear(self) -> Any:
        """The next thing that it says; Late after its time, RuntimeError where it ended without a word."""
        try:
            text = self.said.get(timeout=max(0.0, self.deadline - time.monotonic()))
        except queue.Empty:
            raise Late(f"not done after {time.monotonic() - self.began:.0f} s") from None
        if text is None:
            raise RuntimeError(f"ended with {self.process.wait()}; see its log")
        return json.loads(text)

    def ask(self, line: str) -> Any:
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()
        return self.hear()

    def end(self) -> None:
        """It and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def started(*given: Any, **variables: str) -> Iterator[Process]:
    made = Process(*given, **variables)
    try:
        yield made
    finally:
        made.end()


def beside(name: str, out: Path, scale: str, deadline: float) -> None:
    """All sides are built at once, then take turns on the card; where they do not fit together, one after the other."""
    file, size = Kept(out, name), SCALES[scale]
    with started("product", out, scale, deadline) as product:
        file.keep("matmul_tflops before", product.hear())
    together = sum(PEAK_GB[name][kind] for kind in SIDES[name]) < memory_gb()
    file.keep("turns", "in turns" if together else "one after the other: the card is too small for all at once")
    times: dict[str, list[float]] = {}
    if together:
        with contextlib.ExitStack() as stack:
            sides = {kind: stack.enter_context(started(f"{name}/{kind}", out, scale, deadline)) for kind in SIDES[name]}
            _turns(file, size, sides, times)
    else:
        for kind in SIDES[name]:
            with started(f"{name}/{kind}", out, scale, deadline) as one:
                _turns(file, size, {kind: one}, times)
    with started("product", out, scale, deadline) as product:
        file.keep("matmul_tflops after", product.hear())


def memory_gb() -> float:
    """Of the card, or of the host."""
    import torch

    from kit.worker import device
    from tests.device import plain_training

    here = plain_training.where()
    return device.memory_bytes(here) / 1e9 if here.type != "cpu" or torch.accelerator.is_available() else float("inf")


def _turns(file: Kept, size: Scale, sides: dict[str, Process], times: dict[str, list[float]]) -> None:
    """Each side's steps, a turn at a time, the order turned round each time; kept after every turn."""
    slots, living = size.micro_batch * size.length, dict(sides)
    for kind, one in sides.items():
        _try(file, living, kind, f"{kind} built", one.hear)
    for number in range(size.turns):
        for kind in list(living)[:: -1 if number % 2 else 1]:
            try:
                said = living[kind].ask(f"steps {size.turn}")
            except (RuntimeError, OSError) as error:
                file.keep(f"{kind} failed", str(error))
                del living[kind]
                continue
            times.setdefault(kind, []).extend(said["times"])
            file.keep(kind, rate(slots, times[kind]) | {"peak_gb": said["peak_gb"]})
            medians = {side: statistics.median(values) for side, values in times.items()}
            file.keep(
                "ratio to the plain loop", {side: medians["plain"] / value for side, value in medians.items()} if "plain" in medians else {}
            )
    if "ours" in living:
        _try(file, living, "ours", "recording", lambda: living["ours"].ask(f"overhead {OVERHEAD_STEPS}"))
    if "ours" in living:
        path = file.path.with_name(f"profile-{file.path.stem}.txt")
        _try(file, living, "ours", "profile", lambda: living["ours"].ask(f"profile {path}") or path.name)


def _try(file: Kept, living: dict[str, Process], kind: str, name: str, act: Callable[[], Any]) -> None:
    """What a side says, kept; a side that ended is left out from then on."""
    try:
        file.keep(name, act())
    except (RuntimeError, OSError) as error:
        file.keep(f"{kind} failed", str(error))
        living.pop(kind, None)


def first_step(out: Path, scale: str, deadline: float) -> None:
    """From the command to the first update, with an empty compile cache and with the one that the first left."""
    file = Kept(out, "first-step")
    cache = out / "compile-cache"
    for name in ("cold", "warm"):
        variables = {"TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"), "TRITON_CACHE_DIR": str(cache / "triton")}
        with started("first", out, scale, deadline, **variables) as one:
            said = one.hear()
            file.keep(name, said | {"command_to_second_update_s": time.monotonic() - one.began, "compiled": SCALES[scale].compile})


def alone(name: str, out: Path, scale: str, deadline: float) -> None:
    """A part that writes its file itself."""
    with started(name, out, scale, deadline) as one:
        try:
            one.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise Late(f"not done after {time.monotonic() - one.began:.0f} s") from None
        if one.process.returncode:
            raise RuntimeError(f"ended with {one.process.returncode}; see {name}.log")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests.device.training", description="Training on a card, told whole in one call.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--scale", choices=sorted(SCALES), default="card")
    parser.add_argument("--seconds", type=float, default=470)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(SECONDS))
    asked = parser.parse_intermixed_args(argv)
    out: Path = asked.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("CHIPASSAY_DEVICE", _device())
    end, ended = time.monotonic() + asked.seconds, {}
    slower = 1 if asked.scale == "card" else 20  # a rehearsal may take its time
    for name in asked.parts or list(SECONDS):
        left, begin = end - time.monotonic(), time.monotonic()
        if left < LEAST_S:
            ended[name] = "not begun: no time left"
        else:
            ended[name] = (
                _one(name, out, asked.scale, begin + min(slower * SECONDS[name], left)) + f" after {time.monotonic() - begin:.0f} s"
            )
        (out / "summary.json").write_text(json.dumps(ended, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(ended, indent=1))
    return 0 if all(text.startswith("done") for text in ended.values()) else 1


def _device() -> str:
    from tests.device import plain_training

    return plain_training.where().type


def _one(name: str, out: Path, scale: str, deadline: float) -> str:
    """How the part ended; whatever it was, the next one is begun."""
    try:
        if name in SIDES:
            beside(name, out, scale, deadline)
        elif name == "first-step":
            first_step(out, scale, deadline)
        else:
            alone(name, out, scale, deadline)
    except Late as error:
        return f"ended: {error}"
    except Exception as error:
        return f"failed: {error!r}"
    return "done"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
