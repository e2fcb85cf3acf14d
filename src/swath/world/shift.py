"""Shift: how far off the home distribution the world is observed, along one axis, by a dose from 0 to 1.

geography   sites come from outside the home continent with probability `dose`
time        `dose` * 12 years later, in a climate `dose` * 3 degrees warmer
scale       pixels (1 + 2 dose) times larger
sensor      band centres moved by `dose` * 25 nm and noise (1 + 4 dose) times stronger
season      `dose` * 150 days later in the year
source      labels of another convention: displaced by 3 dose pixels, classes merged from 0.5 on
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from swath.core import Sensor, UnknownName, UserError

AXES = ("none", "geography", "time", "scale", "sensor", "season", "source")
NOISE = 0.0012


@dataclass(frozen=True)
class Shift:
    """One axis and its dose."""

    axis: str = "none"
    dose: float = 0.0
    home: str = "europe"

    def __post_init__(self) -> None:
        if self.axis not in AXES:
            raise UnknownName("shift axis", self.axis, AXES)
        if not 0 <= self.dose <= 1:
            raise UserError(f"a dose lies between 0 and 1, not {self.dose}", where=f"shift {self.axis}")

    def _of(self, axis: str) -> float:
        return self.dose if self.axis == axis else 0.0

    def region(self, asked: str | None) -> tuple[str | None, str | None, float]:
        """Region to draw from, region to leave out instead, and how often."""
        if self.axis == "geography":
            return asked or self.home, asked or self.home, self.dose
        return asked, None, 0.0

    def day(self, day: int) -> int:
        return day + round(150 * self._of("season")) + round(12 * 365.25 * self._of("time"))

    @property
    def warming(self) -> float:
        return 3.0 * self._of("time")

    def gsd(self, gsd: float) -> float:
        return gsd * (1 + 2 * self._of("scale"))

    @property
    def noise(self) -> float:
        return NOISE * (1 + 4 * self._of("sensor"))

    @property
    def convention(self) -> float:
        return self._of("source")

    def sensor(self, sensor: Sensor) -> Sensor:
        """The sensor whose responses are used; its name and bands stay those that were asked for."""
        move = 25 * self._of("sensor")
        if not move:
            return sensor
        return replace(sensor, bands=tuple(b if b.nm is None else replace(b, nm=b.nm + move) for b in sensor.bands))
