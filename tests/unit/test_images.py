"""Parts of image building that need no engine."""

from __future__ import annotations

import json

import pytest

from kit import builder, sbom
from kit.errors import KitError


def test_sbom_has_one_component_a_package_and_the_same_bytes() -> None:
    debian, python = [["b", "2", "amd64"], ["a", "1:1", "all"]], [["Torch", "2.13"], ["my_pkg", "1"]]
    made = sbom.document(debian, python)
    assert made == sbom.document(debian[::-1], python[::-1])
    parts = json.loads(made)["components"]
    assert [part["purl"] for part in parts] == [
        "pkg:deb/debian/a@1:1?arch=all",
        "pkg:deb/debian/b@2?arch=amd64",
        "pkg:pypi/torch@2.13",
        "pkg:pypi/my-pkg@1",
    ]


def test_what_reads_the_image_is_valid_python() -> None:
    compile(sbom.READ, "read", "exec")


def test_unknown_builder_is_misuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(builder.CHOICE, "kaniko")
    with pytest.raises(KitError, match="unknown builder 'kaniko'"):
        builder.chosen()


def test_missing_buildah_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KitError, match="buildah is missing"):
        builder._buildah(["images"])
