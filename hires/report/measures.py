"""The findings of hires evaluate for a page: flattened, in words, and which way is better."""

from collections.abc import Iterator
from dataclasses import dataclass
import math
import re

from hires.report.charts import number

PLACE = ("of", "data", "resolution", "images", "seen", "prior")  # of a record: what it was measured on
DIRECTIONS = ("lower", "higher", "one")
PLACES = ("data", "resolution", "images")  # two records' measures can be compared where these are the same, and stands_on
INCEPTION = ("fid", "kid", "inception_score", "precision", "recall")  # measures that bear no name of their features
COUNTS = ("_labels", "_pairs", "_pictures", "_epochs", "_width")
LONG = 12  # entries of a list that are shown
FILES = (".png", ".csv", ".json", ".safetensors")
# the first pattern that matches a measure's name; numbers that only describe (floors, settings, intervals) match none
WAYS = (
    (r"floor|_real$|train|_sd\b|interval|_low$|_high$|seconds|count|labels|features|minima|prevalence|random_baseline|_l2$|barrier", ""),
    (r"^diversity$|band_ratio", "one"),
    (r"auroc|auprc|average_precision|precision|recall|inception_score|^is$|psnr|coverage|cosine|_found_", "higher"),
    (r"^swd|mse|error|^fid|^kid|frechet|lpips|fpr|burnt|^over$", "lower"),
)


@dataclass(frozen=True)
class Interval:
    """A number with its interval."""

    value: float
    low: float
    high: float


def columned(record: dict) -> dict[str, list[str]]:
    """Names of the columns of measures that have some, by how the measures' names begin: {'detection_': ['AUROC', 'AUPRC', …]}.

    The finding 'detection_columns' has them in brackets.
    """
    texts = {key.removesuffix("columns"): text for key, text in record.items() if key.endswith("_columns") and isinstance(text, str)}
    found = {start: re.findall(r"\[([^\]]+)\]", text) for start, text in texts.items()}
    return {start: names for start, names in found.items() if names}


def flat(record: dict, above: str = "") -> Iterator[tuple[str, object]]:
    """(name, value) of a record's findings: of nested ones 'landscape.minima', of those with columns 'detection_energy_noise AUROC'.

    Such a value is an Interval where the finding holds value, low and high.
    """
    columns = columned(record)
    for name, value in record.items():
        if not above and name in PLACE:
            continue
        names = next((those for start, those in columns.items() if name.startswith(start)), [])
        if isinstance(value, dict):
            yield from flat(value, f"{above}{name}.")
        elif names and isinstance(value, list) and len(value) == len(names):
            yield from ((f"{above}{name} {column}", interval(one)) for column, one in zip(names, value, strict=True))
        elif not names or not name.endswith("_columns"):
            yield f"{above}{name}", value


def interval(value):
    """[value, low, high] as an Interval, anything else as it is."""
    return Interval(*value) if isinstance(value, list) and len(value) == 3 else value


def single(value) -> float | None:
    """The finite number that a finding is compared by, of a list of numbers their mean; None where there is none."""
    numbers = [value.value] if isinstance(value, Interval) else value if isinstance(value, list) else [value]
    if not numbers or not all(isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in numbers):
        return None
    return sum(numbers) / len(numbers)


def direction(name: str) -> str:
    """'lower', 'higher' or 'one' (nearest to 1) where one way is better, else ''."""
    return next((way for pattern, way in WAYS if re.search(pattern, name, re.IGNORECASE)), "")


def shown(value) -> str:
    """A finding in words: numbers to four digits, lists with spaces, lists of lists a line each."""
    if isinstance(value, Interval):
        return f"{number(value.value)} ({number(value.low)} – {number(value.high)})"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return number(value, 4)
    if isinstance(value, list):
        value, more = value[:LONG], [f"… {len(value)} in all"] if len(value) > LONG else []
        value = [*value, *more]
        return ("\n" if any(isinstance(one, list) for one in value) else "  ").join(shown(one) for one in value)
    return str(value)


def is_file(value) -> bool:
    """Whether a finding is the name of a file beside it, which is shown as a picture or not at all."""
    return isinstance(value, str) and value.endswith(FILES) and "/" not in value


def stands_on(record: dict, name: str) -> list:
    """What a finding stands on beside PLACES: the record's words of its features, pictures or set, and how many there were of them."""

    def of_it(key: str, value) -> bool:
        head, _, tail = key.partition("_")
        if isinstance(value, str):
            named = (tail and tail in name) or (tail == "inception" and name.startswith(INCEPTION))
            return bool(named) and not is_file(value)
        return key.endswith(COUNTS) and name.startswith(head)

    return [(key, value) for key, value in record.items() if of_it(key, value)]


def best(values: dict[str, float], way: str) -> set[str]:
    """Which of several, by key, have the best value; none where there is nothing to compare."""
    if way not in DIRECTIONS or len(values) < 2:
        return set()
    cost = {key: abs(value - 1) if way == "one" else -value if way == "higher" else value for key, value in values.items()}
    least = min(cost.values())
    found = {key for key, value in cost.items() if value == least}
    return found if len(found) < len(values) else set()
