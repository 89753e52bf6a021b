"""The energy's landscape: its minima, their basins, and the barriers between them (P1 §4.3; docs/reference/landscape.md)."""

from hires.evaluation.landscape.exploration import Config, Landscape, search
from hires.evaluation.landscape.measurement import NEEDS, check, measure

__all__ = ["NEEDS", "Config", "Landscape", "check", "measure", "search"]
