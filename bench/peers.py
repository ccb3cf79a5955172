"""Other clients that measure servers: installed beside, run by their own command lines, read by what they write."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WHOLE = "installed.txt"  # in a peer's folder: what it has
TOKENIZER = """
import glob, os, sys
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
made = Tokenizer(models.BPE())
made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
first = dict(special_tokens=["<s>", "</s>", "<unk>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
made.train(sorted(glob.glob(os.path.dirname(os.__file__) + "/*.py")), trainers.BpeTrainer(vocab_size=8000, **first))
words = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>")
PreTrainedTokenizerFast(tokenizer_object=made, **words).save_pretrained(sys.argv[1])
"""


@dataclass(frozen=True)
class Tool:
    """A client: its command for a load, how its first-token times in ms are read, and the seconds that its load took as a whole."""

    name: str
    command: Callable[[dict[str, object]], list[str]]
    first_ms: Callable[[dict[str, object]], list[float]]
    whole_s: Callable[[dict[str, object]], float]


def _aiperf(path: Path) -> list[float]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row["metrics"]["time_to_first_token"]["value"] for row in rows if row["metadata"]["benchmark_phase"] == "profiling"]


def _guidellm(path: Path) -> list[float]:
    return [row["time_to_first_token_ms"] for row in json.loads(path.read_text())["benchmarks"][0]["requests"]["successful"]]


def _sglang(path: Path) -> list[float]:
    return [1000 * seconds for seconds in json.loads(path.read_text().splitlines()[-1])["ttfts"]]


def _vllm(path: Path) -> list[float]:
    return [1000 * seconds for seconds in json.loads(path.read_text())["ttfts"]]


def _duration(path: Path) -> float:
    """Seconds of a whole load as the tool says them; 0 where it is not read."""
    return float(json.loads(path.read_text().splitlines()[-1]).get("duration", 0)) if path.suffix == ".jsonl" else 0.0


READERS = {"aiperf": _aiperf, "guidellm": _guidellm, "sglang": _sglang, "vllm": _vllm}


def _table() -> dict[str, Any]:
    found = tomllib.loads((Path(__file__).parent / "peers.toml").read_text())
    return {name: entry for name, entry in found.items() if isinstance(entry, dict)}


def tools(folder: Path) -> list[Tool]:
    """The peers that are installed below `folder`."""
    return [_tool(name, entry, folder) for name, entry in _table().items() if (folder / name / WHOLE).is_file()]


def _tool(name: str, entry: dict[str, Any], folder: Path) -> Tool:
    places = {"bin": folder / name / "bin", "folder": folder / name, "tokenizer": folder / "tokenizer"}

    def command(load: dict[str, object]) -> list[str]:
        return [word.format(**places, **load) for word in shlex.split(entry["command"])]

    def first_ms(load: dict[str, object]) -> list[float]:
        return READERS[name](Path(entry["result"].format(**load)))

    def whole_s(load: dict[str, object]) -> float:
        return _duration(Path(entry["result"].format(**load)))

    return Tool(name, command, first_ms, whole_s)


def names() -> list[str]:
    """Every peer that is known."""
    return list(_table())


def install(folder: Path) -> None:
    """Make an environment for each peer that has none, and a tokenizer that all of them take; ends with one line where that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, entry in _table().items():
        if not (folder / name / WHOLE).is_file():
            with _told(name, folder):
                _install(entry, folder / name)
    with _told("the tokenizer", folder):
        subprocess.run([folder / "sglang/bin/python", "-c", TOKENIZER, folder / "tokenizer"], check=True)


@contextlib.contextmanager
def _told(what: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except subprocess.CalledProcessError as error:
        why = f"{Path(error.cmd[0]).name} ended with {error.returncode}, its words stand above"
        raise SystemExit(f"bench client: {what} was not made below {folder}: {why}; mend it and repeat, what is made is kept") from None


def _install(entry: dict[str, Any], place: Path) -> None:
    """One peer; the list of what it has is written last, so that half a peer is never taken for one."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
    pip = [place / "bin/python", "-m", "pip", "--quiet"]
    subprocess.run([*pip, "install", *entry["packages"]], check=True)
    if "unpacked" in entry:  # some files of it are the client; the rest would want an accelerator
        subprocess.run([*pip, "download", "--no-deps", "--dest", place, entry["unpacked"]], check=True)
        with zipfile.ZipFile(next(place.glob("*.whl"))) as wheel:
            wheel.extractall(place, [member for member in wheel.namelist() if not member.endswith(".so")])
    has = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    (place / WHOLE).write_text(has + "".join(f"{entry[key]}\n" for key in ("unpacked",) if key in entry))
