"""The pictures that the taught pipeline learns: one shape of one colour on a plain ground, drawn here, so nobody's property.

A picture is 64 x 64 x 3 bytes. `TRAINING` numbers are learnt from, `HELD_OUT` numbers are not and stand for the truth.
"""

from __future__ import annotations

import random

SIDE = 64
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 70, 230)}
SHAPES = ("disc", "square")
PROMPTS = tuple(f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES)
TRAINING = range(1536)
HELD_OUT = range(10_000, 10_384)


def prompt(number: int) -> str:
    """What the picture shows, in words."""
    return PROMPTS[number % len(PROMPTS)]


def picture(number: int) -> bytes:
    """The picture of that number: place, size and ground are drawn from it."""
    drawn = random.Random(f"taught picture {number}")
    _, colour, shape = prompt(number).split()
    ground = bytes(drawn.randrange(90, 210) for _ in range(3))
    across, down, reach = drawn.uniform(20, 44), drawn.uniform(20, 44), drawn.uniform(8, 16)
    paint = bytes(COLOURS[colour])
    return b"".join(_row(row - down, across, reach, shape, ground, paint) for row in range(SIDE))


def _row(away: float, across: float, reach: float, shape: str, ground: bytes, paint: bytes) -> bytes:
    """One row: ground, then what the shape covers of it, then ground."""
    if abs(away) > reach:
        return ground * SIDE
    half = reach if shape == "square" else (reach**2 - away**2) ** 0.5
    begin, end = round(across - half), round(across + half)
    return ground * begin + paint * (end - begin) + ground * (SIDE - end)
