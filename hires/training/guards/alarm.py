"""Warns while the energy runs away, which a growing gap or slope shows long before anything is not a number, and when it has gone flat."""

import statistics

# what a progress line must exceed beside its usual value; with the recipe |U| stays below 1 / (2 lambda_U) = 5, the gap below twice that
FLOORS = {"energy_gap": 20.0, "energy_size": 10.0, "energy_slope": 20.0}
FACTOR = 8.0  # times the usual value; at a level's beginning the energy finds its scale within this
FLAT = 1e-3  # of the usual energy_slope: an energy that is the same for everything teaches nobody, and a softplus one stays so
ENOUGH = 10  # progress lines of a level that say what is usual there; before that the level below does, or nobody


class Alarm:
    """Looks at each progress line's record: |energy_gap|, energy_size and energy_slope against their medians since the level began."""

    def __init__(self):
        self._resolution = 0
        self._lines: dict[str, list[float]] = {}
        self._below: dict[str, float] = {}  # the medians of the level before
        self._told: dict[str, float] = {}

    def see(self, record: dict) -> tuple[list[str], str]:
        """(names of the terms that run away, or energy_flat; a warning or ''): once a level, and again at each further factor of FACTOR."""
        level = record["resolution"]
        if level != self._resolution:
            self._below |= {name: statistics.median(values) for name, values in self._lines.items() if len(values) >= ENOUGH}
            self._resolution, self._lines, self._told = level, {name: [] for name in FLOORS}, {}
        where = f"alarm at {record['images']} images, level {level}"
        slope, usual = record.get("energy_slope"), self._usual("energy_slope")
        if slope is not None and usual is not None and abs(slope) < FLAT * usual:
            first, self._told["energy_flat"] = "energy_flat" not in self._told, 1.0
            advice = "go back to an earlier checkpoint with a smaller schedule.energy_lr, or leave a softplus (docs/training.md)"
            told = f"{where}: energy_slope is {slope:.4g}, usually {usual:.4g}: the energy is flat; {advice}"
            return ["energy_flat"], told if first else ""
        away, news = [], []
        for name, floor in FLOORS.items():
            if name not in record:
                continue
            value, usual = abs(record[name]), self._usual(name)
            self._lines[name].append(value)
            if usual is None or not value > max(FACTOR * usual, floor):
                continue
            away.append(name)
            if value > FACTOR * self._told.get(name, 0.0):
                self._told[name] = value
                news.append(f"{name} is {record[name]:.4g}, usually {usual:.4g}")
        advice = f"smaller schedule.levels.{level}.lr or schedule.energy_lr, larger objective.r1 or objective.lambda_u (docs/training.md)"
        return away, f"{where}: {'; '.join(news)}: the energy runs away; try {advice}" if news else ""

    def _usual(self, name: str) -> float | None:
        """The median of a term since the level began, or of the level before; None where neither has enough lines."""
        values = self._lines[name]
        return statistics.median(values) if len(values) >= ENOUGH else self._below.get(name)
