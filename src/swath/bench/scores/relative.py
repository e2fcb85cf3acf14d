"""Average relative performance against a named baseline (GFM), and the CO2 of GPU hours.

ARP(M) = mean over tasks of (score(M, i) - score(base, i)) / score(base, i).
"""

from __future__ import annotations

from collections.abc import Mapping

from swath.core.errors import UserError

# ML CO2 Impact's figures that make GFM's table: a V100 draws 0.3 kW, the grid gives 0.475 kg a kWh.
KG_PER_V100_HOUR = 0.3 * 0.475


def arp(scores: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    """Average relative performance on the tasks of the baseline; a task missing on either side is refused."""
    if set(scores) != set(baseline):
        odd = sorted(set(scores) ^ set(baseline))
        raise UserError(f"the two do not share the tasks {odd}", remedy="an average over other tasks is another number")
    if not scores or any(v == 0 for v in baseline.values()):
        raise UserError("a relative difference needs tasks with a baseline score that is not zero")
    return sum((scores[t] - b) / b for t, b in baseline.items()) / len(baseline)


def kg_co2(gpu_hours: float, kg_per_hour: float = KG_PER_V100_HOUR) -> float:
    """Kilograms of CO2 equivalent of this many hours."""
    return gpu_hours * kg_per_hour


def table(
    results: Mapping[str, Mapping[str, float]], baseline: str, gpu_hours: Mapping[str, float] | None = None
) -> list[dict[str, object]]:
    """One row per model: its scores, ARP against the baseline, CO2 where the hours are known."""
    if baseline not in results:
        raise UserError(f"the baseline '{baseline}' has no scores", remedy=f"there are: {', '.join(sorted(results))}")
    rows: list[dict[str, object]] = []
    for model, scores in results.items():
        row: dict[str, object] = {"model": model, **scores, "ARP %": 100 * arp(scores, results[baseline])}
        if gpu_hours and model in gpu_hours:
            row["kg CO2e"] = kg_co2(gpu_hours[model])
        rows.append(row)
    return sorted(rows, key=lambda r: -float(str(r["ARP %"])))
