"""The energy's landscape: its minima, their basins, and the barriers between them (P1 §4.3; docs/landscape.md)."""

from hires.evaluation.landscape.measure import NEEDS, check, lower, measure
from hires.evaluation.landscape.search import Config, Landscape, search

__all__ = ["NEEDS", "Config", "Landscape", "check", "lower", "measure", "search"]
