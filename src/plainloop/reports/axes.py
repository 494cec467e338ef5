"""An axis of a plot: from values to places, and the round numbers beside it."""

import math
from collections.abc import Sequence


class Axis:
    """From the lowest to the highest of some values, with a margin (a share of that) at both ends."""

    def __init__(self, values: Sequence[float], margin: float, log: bool = False):
        self.log, self.whole = log, all(float(value).is_integer() for value in values)
        low, high = (self._scaled(value) for value in (min(values, default=1.0), max(values, default=2.0)))
        if not high / 8 - low / 8 > 1e-12 * max(abs(low), abs(high), 1e-280):  # one value, or as good as one
            half = 0.5 if self.whole else abs(low) / 10 or 0.5
            low, high = low - half, high + half
        room = margin * (high / 2 - low / 2) * 2
        ends = (-323.5, 308.25) if log else (-1.79e308, 1.79e308)  # beyond these there are no numbers
        self.low, self.high = max(low - room, ends[0]), min(high + room, ends[1])

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else float(value)

    def place(self, value: float) -> float:
        """From 0, at the low end, to 1; in halves, as the difference of two numbers may be none."""
        return (self._scaled(value) / 2 - self.low / 2) / (self.high / 2 - self.low / 2)

    def ticks(self) -> list[tuple[float, str]]:
        """Where a number stands, from 0 to 1, and how it is written."""
        if self.log:
            decades = range(math.ceil(self.low), math.floor(self.high) + 1)
            if len(decades) > 2:
                return [(self.place(10.0**n), f"{10.0**n:g}") for n in decades[:: -(-len(decades) // 6)]]
            low, high = 10.0**self.low, 10.0**self.high
            found = [
                float(f"{n}e{e}") for e in range(math.floor(self.low), math.ceil(self.high) + 1) for n in (1, 2, 5)
            ]
            numbers = [number for number in found if low <= number <= high]
            if len(numbers) < 2:
                numbers = [number for number in round_numbers(low, high, 5) if number > 0]
            return [(self.place(number), f"{number:.6g}") for number in numbers]
        for most in (5, 3, 2):  # as many as have room beside each other on a phone
            numbers = round_numbers(self.low, self.high, most)
            if self.whole:
                numbers = [number for number in numbers if number.is_integer()]
            texts = [_written(number, numbers) for number in numbers]
            if sum(map(len, texts)) < 36:
                break
        return [(self.place(number), text) for number, text in zip(numbers, texts, strict=True)]


def round_numbers(low: float, high: float, most: int) -> list[float]:
    """About `most` numbers from `low` to `high`: multiples of 1, 2 or 5 times a power of ten."""
    rough = high / most - low / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _written(number: float, numbers: Sequence[float]) -> str:
    """With as many digits as tell the numbers of an axis apart."""
    step = abs(numbers[1] - numbers[0]) if len(numbers) > 1 else abs(number)
    largest = max(map(abs, numbers))
    digits = 0 if not step or step >= 1 else -math.floor(math.log10(step) + 1e-9)
    if largest >= 1e10 or digits > 6:
        digits = math.floor(math.log10(largest)) - math.floor(math.log10(step) + 1e-9) if step and largest else 0
        return f"{number:.{min(digits, 15)}e}" if number else "0"
    return f"{number:,.{digits}f}"
