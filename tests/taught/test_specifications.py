"""Base specifications in this interpreter: what the device has not is a fact about it, any other fault fails the case."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from kit.worker import main  # noqa: E402
from kit.worker.suites import specifications  # noqa: E402
from tests.conftest import ROOT  # noqa: E402

pytestmark = pytest.mark.torch
SMALL = {
    "modes": ["float32", "int8"],
    "shapes": [[64, 64, 64]],
    "copies": ["host_to_device", "on_card"],
    "copy_bytes": 2**20,
    "repeats": 3,
    "repeat_ms": 1,
}


def ran(folder: Path) -> list[dict[str, Any]]:
    """Events of a small case as the worker writes them."""
    smoke = tomllib.loads((ROOT / "manifests/plans/smoke.toml").read_text(encoding="utf-8"))
    case = next(case for case in smoke["case"] if case["suite"] == "specifications") | SMALL
    folder.mkdir()
    main._run_rank(case, 1, folder)
    return [json.loads(line) for line in (folder / "events-00000.jsonl").read_bytes().splitlines()]


def refusing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Integer products end with the error, which is a fake, raised where a device would raise it."""

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(torch, "_int_mm", refuse)


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIPASSAY_DEVICE", "cpu")


@pytest.mark.parametrize(
    "error",
    [
        NotImplementedError("torch has no such product"),
        RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Char'"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul(...)`"),
        RuntimeError("_int_mm_out_cuda not compiled for this platform."),
        RuntimeError("self.size(0) needs to be greater than 16, but got 8"),
        TypeError("Cannot convert a tensor to that dtype as the framework doesn't support it"),
    ],
    ids=lambda error: str(error)[:24],
)
def test_what_the_device_has_not_is_unavailable(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(monkeypatch, error)
    events = ran(tmp_path / "x")
    assert events[-1]["state"] == "done"
    told = {event["what"]: event["reason"] for event in events if event["e"] == "unavailable"}
    assert set(told) == {"int8", "host_to_device"}
    assert told["int8"] == f"{type(error).__name__}: {error}"
    assert {event["kind"] for event in events if event["e"] == "copied"} == {"on_card"}


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`"),
        TypeError("multiply() got an unexpected keyword argument"),
        AttributeError("'NoneType' object has no attribute 'view'"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_any_other_fault_fails_the_case_with_its_reason(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(monkeypatch, error)
    events = ran(tmp_path / "x")
    assert (events[-1]["e"], events[-1]["state"]) == ("case_end", "failed")
    assert events[-1]["reason"] == f"Failed: int8: {type(error).__name__}: {error}"
    assert [event for event in events if event["e"] == "unavailable"] == []


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("fake: out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_fails_the_case_with_its_peak_and_the_next_goes_on(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        refusing(patch, error)
        events = ran(tmp_path / "first")
    assert (events[-1]["e"], events[-1]["state"]) == ("case_end", "failed")
    assert events[-1]["reason"].startswith("OutOfMemory: int8 needs more memory than there is: ")
    assert "GB were held at most" in events[-1]["reason"]
    assert ran(tmp_path / "second")[-1]["state"] == "done"


def test_a_torch_without_products_of_integers_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "_int_mm")
    assert [event["what"] for event in ran(tmp_path / "x") if event["e"] == "unavailable"] == ["int8", "host_to_device"]


def test_a_fault_keeps_what_was_measured_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(monkeypatch, RuntimeError("CUDA error: unspecified launch failure"))
    assert {event["mode"] for event in ran(tmp_path / "x") if event["e"] == "product"} == {"float32"}


def test_every_way_to_copy_that_a_case_may_ask_for_is_there() -> None:
    schema = json.loads((ROOT / "manifests/schemas/cases/specifications.schema.json").read_text(encoding="utf-8"))
    assert set(specifications.COPIES) == set(schema["properties"]["copies"]["items"]["enum"])
