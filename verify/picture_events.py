"""Events of the suite `text_to_image`, beside the common ones."""

from __future__ import annotations

from typing import Literal

from verify.events import Compiled, Event, Memory, Natural, Positive, Sha256


class Parts(Event, frozen=True, tag="parts"):
    """Parameters of each part, what made token ids, and which safety checker ran."""

    text_encoder: Positive
    denoiser: Positive
    decoder: Positive
    tokenizer: Literal["bytes", "file"]
    safety_checker: str


class Load(Event, frozen=True, tag="load"):
    """The model was made and brought to the device from `begin_ns` to `t`."""

    begin_ns: Natural
    kind: Literal["cold", "warm"]


class Call(Event, frozen=True, tag="call"):
    """One pipeline call: text encoded at `encoded_ns`, latents denoised at `denoised_ns`, pictures on the host at `t`."""

    call: Natural
    phase: Literal["warmup", "measured"]
    begin_ns: Natural
    encoded_ns: Natural
    denoised_ns: Natural


class Latents(Event, frozen=True, tag="latents"):
    """Elements of the latents after a step, at places that seed and step name."""

    step: Positive
    values: list[float]


class Picture(Event, frozen=True, tag="picture"):
    """A kept picture: mean of red, green and blue in thousandths; `grid_milli`, `spread_milli`: mean, deviation of 8 x 8 parts."""

    picture: Natural
    file: str
    sha256: Sha256
    mean_milli: list[Natural]
    grid_milli: list[Natural]
    spread_milli: list[Natural]


EVENTS: tuple[type[Event], ...] = (Parts, Load, Compiled, Call, Latents, Picture, Memory)
