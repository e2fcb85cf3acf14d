"""Views: two or more looks at the same place: another date, another crop, another atmosphere."""

from swath.objectives.views.views import Views, pick_dates

__all__ = ["Views", "pick_dates"]
