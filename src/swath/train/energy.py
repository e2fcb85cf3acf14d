"""Energy of a run: kWh and kg CO2e with the method that gave them, added up over resumes.

`codecarbon` measures with codecarbon's offline tracker. `estimate` counts busy CPU seconds, and reads the GPU's
own energy counter where there is one: kWh = (W per busy core x core-seconds + GPU joules) / 3.6e6 x PUE.
"""

from __future__ import annotations

import os
import time
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch

from swath.core.errors import SwathWarning

WATTS_PER_CORE = 8.0
PUE = 1.2
KG_PER_KWH = 0.445  # mean of the world's grids, 2024 (IEA, Electricity 2025)


@dataclass(frozen=True)
class Energy:
    """What a run has used so far."""

    kwh: float = 0.0
    kgco2e: float = 0.0
    seconds: float = 0.0
    methods: tuple[str, ...] = ()

    def add(self, kwh: float, kgco2e: float, seconds: float, method: str) -> Energy:
        methods = self.methods if method in self.methods else (*self.methods, method)
        return Energy(self.kwh + kwh, self.kgco2e + kgco2e, self.seconds + seconds, methods)

    @classmethod
    def of(cls, record: dict[str, Any] | None) -> Energy:
        if not record:
            return cls()
        return cls(record["kwh"], record["kgco2e"], record["seconds"], tuple(record["methods"]))

    def record(self) -> dict[str, Any]:
        return asdict(self)


class Meter:
    """Reads the energy used since it was made; `total()` adds it to what came before."""

    def __init__(self, method: str, before: Energy, device: torch.device) -> None:
        self.before, self.device, self.start = before, device, time.monotonic()
        self.cpu, self.gpu, self.why, self.tracker = _cpu_seconds(), _gpu_joules(device), "", None
        self.method = method
        if method == "codecarbon":
            try:
                self.tracker = _tracker()
            except Exception as why:
                self.why = f"; codecarbon could not be used ({type(why).__name__}: {why})"
                warnings.warn(f"energy is estimated{self.why}", SwathWarning, stacklevel=3)

    def total(self) -> Energy:
        seconds = time.monotonic() - self.start
        if self.method == "off":
            return self.before
        if self.tracker is not None:
            kg = float(self.tracker.flush() or 0.0)
            kwh = float(self.tracker._total_energy.kWh)
            return self.before.add(kwh, kg, seconds, f"codecarbon offline, {self.tracker._country_iso_code}")
        busy = _cpu_seconds() - self.cpu
        gpu = _gpu_joules(self.device)
        kwh = (WATTS_PER_CORE * busy + ((gpu - self.gpu) if gpu is not None and self.gpu is not None else 0)) / 3.6e6
        parts = f"estimate: {WATTS_PER_CORE:g} W per busy core"
        if self.device.type == "cuda":
            parts += (
                " + GPU energy counter" if gpu is not None else "; the GPU has no energy counter and is not counted"
            )
        parts += f", PUE {PUE:g}, {KG_PER_KWH:g} kg/kWh (world mean){self.why}"
        return self.before.add(kwh * PUE, kwh * PUE * KG_PER_KWH, seconds, parts)

    def stop(self) -> None:
        if self.tracker is not None:
            self.tracker.stop()


def _tracker() -> Any:
    from codecarbon import OfflineEmissionsTracker

    country = os.environ.get("SWATH_COUNTRY", "USA")
    tracker = OfflineEmissionsTracker(country_iso_code=country, save_to_file=False, log_level="error", pue=PUE)
    tracker.start()
    return tracker


def _cpu_seconds() -> float:
    """Busy seconds of this process and of the children it still has or has waited for."""
    import psutil

    me = psutil.Process()
    t = me.cpu_times()
    busy = t.user + t.system + t.children_user + t.children_system
    for child in me.children(recursive=True):
        try:
            c = child.cpu_times()
            busy += c.user + c.system
        except psutil.Error:
            continue
    return busy


def _gpu_joules(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    try:
        import pynvml  # type: ignore[import-not-found]

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(device.index or 0)
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000.0
    except Exception:
        return None
