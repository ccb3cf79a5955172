"""The kit's own loop against the library's pipeline over the same modules: it asks the device for less and never waits within a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from kit.worker.engines import diffusers  # noqa: E402
from kit.worker.suites import text_to_image  # noqa: E402
from tests.device.beside import pictures_case, plain_pipeline  # noqa: E402

pytestmark = pytest.mark.torch
STEPS = 4
HERE = torch.device("cpu")
WRITING = {"aten._to_copy.default", "aten.clone.default", "aten.round.default"}  # once a picture: its bytes, where the library gives floats
READS = "aten._local_scalar_dense.default"  # a value is read on the host: on a device, a wait for all that was asked of it


class Counted(TorchDispatchMode):
    """Counts the operations that reach the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[str(function)] += 1
        return function(*args, **kwargs or {})


def counted(act: Callable[[], Any]) -> Counter[str]:
    act()  # caches that a first call fills
    with Counted() as counter:
        act()
    return counter.found


@pytest.fixture(scope="module")
def both() -> tuple[Counter[str], Counter[str]]:
    case = pictures_case("tiny", "float32", "none") | {"steps": STEPS}
    engine = diffusers.load(case, HERE)
    plain = plain_pipeline(engine, engine.parts["denoiser"])
    return counted(lambda: text_to_image._call(case, engine, HERE, 1)), counted(plain)


def test_ours_asks_for_fewer_operations(both: tuple[Counter[str], Counter[str]]) -> None:
    ours, plain = both
    assert ours.total() < plain.total()
    assert {name: count for name, count in (ours - plain).items() if name not in WRITING} == {}


def test_ours_reads_nothing_within_the_steps(both: tuple[Counter[str], Counter[str]]) -> None:
    ours, plain = both
    assert ours[READS] == 0
    assert plain[READS] >= STEPS
