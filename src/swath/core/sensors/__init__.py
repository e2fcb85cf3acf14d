"""Every known sensor as data: one TOML file each. `SENSORS.get("sentinel2-l2a")`."""

from __future__ import annotations

from swath.core.family import Family
from swath.core.sensor import Sensor, read_sensor

SENSORS: Family[Sensor] = Family("sensor", "swath.core.sensors", read_sensor, suffix=".toml")

__all__ = ["SENSORS"]
