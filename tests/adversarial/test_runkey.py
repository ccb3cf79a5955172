"""The key of a run's log: certified by the vendor for this run, and the only one that signs its checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit import keys, opening, runkey, seal
from kit.errors import KitError
from tests.adversarial import builder, trust
from tests.adversarial.attacks import log_entry
from tests.adversarial.builder import KEY, Bench
from verify.replay import replay


def broken(run: Path) -> set[str]:
    return {finding.rule for finding in replay(run, "self").findings if finding.severity == "error"}


def log_signed_by_another(bench: Bench) -> None:
    """The vendor's own key signs the log, as if nobody had asked for a run key."""
    write = bench.write

    def changed() -> Any:
        log = write()
        log._key = KEY
        return log

    bench.write = changed  # type: ignore[method-assign]


ATTACKS: dict[str, tuple[str, Callable[[Bench], Any]]] = {
    "certified by another key": ("run_key.signature", lambda b: setattr(b, "certifier", trust.key("rob"))),
    "a subject that is not the key": ("run_key.subject", lambda b: b.certified.update({"run-key": "0" * 64})),
    "of another run": ("run_key.bound", lambda b: b.certificate.update(run="other")),
    "of another plan": ("run_key.bound", lambda b: b.certificate.update(plan={"sha256": "0" * 64})),
    "of another challenge": ("run_key.bound", lambda b: b.certificate.update(challenge={"sha256": "0" * 64})),
    "of another host": ("run_key.bound", lambda b: b.certificate.update(host="0" * 64)),
    "run out before the run": ("run_key.window", lambda b: b.certificate.update(notAfter="2001-01-01T00:00:00Z")),
    "not valid yet": ("run_key.window", lambda b: b.certificate.update(notBefore="2099-01-01T00:00:00Z")),
    "a month that does not exist": ("run_key.window", lambda b: b.certificate.update(notAfter="2099-13-01T00:00:00Z")),
    "the log signed by the vendor's key": ("log.checkpoint", log_signed_by_another),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_certificate_that_does_not_hold(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, edit = ATTACKS[name]
    monkeypatch.setattr(seal.runkey, "certified", lambda run, _: runkey_files(run))
    assert rule in broken(builder.build(tmp_path, edit))


def runkey_files(run: Path) -> list[Any]:
    """What a kit that checks nothing would list."""
    from verify import envelope, statements
    from verify.runkey import RunKey

    data = (run / "evidence/run-keys/0.dsse.json").read_bytes()
    made = statements.parse(envelope.parse(data), "run-key/v1", "test")
    return [RunKey("run-keys/0.dsse.json", builder.RUN_KEY.public_key(), made.subject["run-key"], made)]


def test_the_statement_lists_the_certificates(tmp_path: Path) -> None:
    run = builder.build(tmp_path)
    builder.reseal(run, lambda statement: statement["predicate"].update(runKeys=[{"sha256": "0" * 64}]))
    assert broken(run) == {"run_key.stated"}


def test_a_certificate_taken_away(tmp_path: Path) -> None:
    run = builder.build(tmp_path)
    (run / "evidence/run-keys/0.dsse.json").rename(run / "evidence/run-keys/1.dsse.json")
    assert {"run_key.files", "log.checkpoint"} <= broken(run)


def test_a_key_that_no_certificate_names(tmp_path: Path) -> None:
    run = builder.build(tmp_path)
    log_entry(run, 0, run_key="0" * 64)
    assert {"run_key.unknown", "log.checkpoint", "log.root"} <= broken(run)


@pytest.fixture
def begun(home: Path) -> tuple[Path, Any]:
    """A run that the kit opened, without a case."""
    from kit import archive, chip, inventory, job, plan

    run, isolation = home / "runs" / builder.NAME, job.Isolation("none")
    resolved = plan.resolve(builder.source(), "tests")
    facts = inventory.document(chip.load("cpu"), isolation, archive.build(), anonymous=True)
    opening.create(run, resolved, facts, KEY, isolation, archive.build(), None).close()
    return run, resolved


def sealed(run: Path, resolved: Any) -> None:
    log, own = opening.again(run, KEY)
    opening.resumed(log, own)
    seal.seal(run, resolved, log, KEY)
    log.close()


def key_file(run: Path) -> Path:
    return keys.config_folder() / "run-keys" / f"{run.name}.key.pem"


def test_a_run_goes_on_under_its_key(begun: tuple[Path, Any]) -> None:
    run, resolved = begun
    before = key_file(run).read_bytes()
    sealed(run, resolved)
    assert key_file(run).read_bytes() == before  # cases are left that were not tried
    assert [path.name for path in (run / "evidence/run-keys").iterdir()] == ["0.dsse.json"]
    assert broken(run) == set()


def test_a_run_that_lost_its_key_gets_another(begun: tuple[Path, Any]) -> None:
    run, resolved = begun
    key_file(run).unlink()
    sealed(run, resolved)
    assert sorted(path.name for path in (run / "evidence/run-keys").iterdir()) == ["0.dsse.json", "1.dsse.json"]
    assert broken(run) == set()


def test_another_vendors_key_does_not_go_on_with_a_run(begun: tuple[Path, Any]) -> None:
    run, _ = begun
    with pytest.raises(KitError, match="run was opened with another key"):
        opening.again(run, trust.key("rob"))


def test_the_key_is_destroyed_with_the_last_case(home: Path) -> None:
    keys.write_private(keys.config_folder() / "run-keys" / f"{builder.NAME}.key.pem")
    run = builder.build(home)
    assert not key_file(run).exists()
    (run / "evidence/run-keys/0.dsse.json").write_bytes(b"{}")
    with pytest.raises(KitError, match="certificates"):
        runkey.certified(run, KEY)
