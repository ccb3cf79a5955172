"""Front door of ChipAssay. Options after `--` go to every session named: nox -s training inference -- --plan smoke --dry-run"""

import os
import uuid

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["training", "inference"]

INVOCATION = os.environ.get("CHIPASSAY_INVOCATION") or uuid.uuid4().hex  # sessions of one invocation share one run


def _install(session: nox.Session, *groups: str) -> None:
    """Install hash-pinned locks: the kit's own, and those of the named groups."""
    for group in ("kit", *groups):
        session.install("--require-hashes", "-r", f"requirements/{group}.lock")


def _kit(session: nox.Session, *args: str) -> None:
    _install(session, "telemetry")
    session.run("python", "-m", "kit", *args, *session.posargs, env={"CHIPASSAY_INVOCATION": INVOCATION})


@nox.session
def training(session: nox.Session) -> None:
    """Run the training cases of a plan; seal, verify, print the scores. [-- --plan P --chip C --case GLOB --dry-run ...]"""
    _kit(session, "run", "--section", "training")


@nox.session
def inference(session: nox.Session) -> None:
    """Run the inference cases of a plan, in the same run directory as `training` when both are named."""
    _kit(session, "run", "--section", "inference")


@nox.session
def verify(session: nox.Session) -> None:
    """Replay a sealed run: check seal and files, recompute every score. [-- RUN --policy self]"""
    _install(session)
    session.run("python", "-m", "verify", *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """Write the report as HTML, PDF and DOCX, in English and Chinese; compare several. [-- RUN [RUN2 ...] --out DIR]"""
    _install(session, "report")
    session.run("python", "-m", "kit", "report", *session.posargs)


@nox.session
def challenge(session: nox.Session) -> None:
    """As a lab: ask a vendor for one run of one plan. [-- --plan P --vendor V --party LAB --policy FILE]"""
    _kit(session, "lab", "challenge")


@nox.session
def audit(session: nox.Session) -> None:
    """As a lab: run a sample again that the vendor could not foresee, and sign the verdict. [-- RUN --policy FILE --key PEM]"""
    _kit(session, "lab", "audit")


@nox.session
def reproduce(session: nox.Session) -> None:
    """Recompute the published numbers from the published evidence, offline. [-- RESULT --policy FILE --status FILE]"""
    _install(session)
    session.run("python", "-m", "verify", "publication", *session.posargs)


@nox.session
def image(session: nox.Session) -> None:
    """Lock, build, check, export or import a chip's container image. [-- build cpu]"""
    _kit(session, "image")


@nox.session
def doctor(session: nox.Session) -> None:
    """Say what this machine has, what is missing, and the next step. [-- --json]"""
    _kit(session, "doctor")


@nox.session
def tests(session: nox.Session) -> None:
    """Run every test of this machine: unit, golden, adversarial, browser, integration. [-- pytest arguments]"""
    _install(session, "test", "report", "browser")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style with ruff."""
    session.install("--require-hashes", "-r", "requirements/lint.lock")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types of kit and verify with mypy, strict."""
    _install(session, "test", "types")
    session.run("mypy")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what the kit costs: recording per event, container start, sealing, verifying. [-- NAME ...]"""
    _install(session, "test", "report")
    session.run("python", "-m", "bench", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Damage sealed runs and feed every parser, at length: nothing accepted, no traceback. [-- runs --count N, parsers --minutes M]"""
    _install(session, "test")
    session.run("python", "-m", "tests.fuzz", *session.posargs)


@nox.session
def mutation(session: nox.Session) -> None:
    """Change the code of verify/ by mutmut and see that its tests notice: a sample by seed. [-- --count N --seed S --module NAME ...]"""
    _install(session, "test", "mutation")
    session.run("python", "-m", "tests.mutation", *session.posargs)
