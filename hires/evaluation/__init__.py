"""The measures: one module each, known to `hires evaluate` and to `monitor.measures` by what the module has:

- `NEEDS`: the functions of a Subject (hires/evaluation/subject.py) that it calls; where one is missing, it is an error before any work
- `SMALLEST`, where it has one: the side in pixels from which on it can be taken
- `measure(material, settings)`: what it finds, {name: number, list of numbers, or text}; samples and pictures come from the material
  (hires/evaluation/material.py), which makes each of them once and shares the work among ranks: every rank calls the same things in the
  same order; `settings` is the whole Settings below, of which a measure reads `images` and its own group; raises HiresError
- `check(settings)`, where it has one: raises HiresError for settings that cannot work, before any work
- `lower(found)`, where it is light enough for a training: one number out of it, lower is better, for keeping the best checkpoint; None
  where there was nothing to judge
"""

from dataclasses import dataclass, field
from types import ModuleType

from hires.errors import HiresError
from hires.evaluation import anomaly, augmentation, detection, diversity, fidelity, landscape, ms_ssim, probe, reconstruction, swd
from hires.evaluation.anomaly import Config as AnomalyConfig
from hires.evaluation.augmentation import Config as AugmentationConfig
from hires.evaluation.detection import Config as DetectionConfig
from hires.evaluation.fidelity import Config as FidelityConfig
from hires.evaluation.landscape import Config as LandscapeConfig
from hires.evaluation.probe import Config as ProbeConfig
from hires.evaluation.reconstruction import Config as ReconstructionConfig
from hires.evaluation.subject import LACKS, Subject
from hires.ground.ranges import check_ranges, setting

MEASURES: dict[str, ModuleType] = {
    "swd": swd,
    "reconstruction": reconstruction,
    "diversity": diversity,
    "fidelity": fidelity,
    "ms_ssim": ms_ssim,
    "probe": probe,
    "augmentation": augmentation,
    "detection": detection,
    "anomaly": anomaly,
    "landscape": landscape,
}


@dataclass
class Settings:
    """How the measures measure."""

    images: int = setting(1000, at_least=1)  # samples, and held-out pictures at most
    metrics: FidelityConfig = field(default_factory=FidelityConfig)
    reconstruction: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    anomaly: AnomalyConfig = field(default_factory=AnomalyConfig)
    landscape: LandscapeConfig = field(default_factory=LandscapeConfig)


def names_of(text: str, key: str = "measure") -> list[str]:
    """Measures by name, 'swd,diversity', each once; raises HiresError naming `key` for an unknown one, or none."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in MEASURES:
            raise HiresError(f"{key}={name}: wanted {', '.join(MEASURES)}")
    return names


def fitting(names: list[str], subject: Subject) -> list[str]:
    """Those of the measures that the subject has networks, and pixels, for."""
    bands = subject.resolution & (subject.resolution - 1) == 0  # a side that is no power of two has none
    large = [name for name in _able(names, subject) if getattr(MEASURES[name], "SMALLEST", 0) <= subject.resolution]
    return [name for name in large if bands or MEASURES[name] is not swd]


def check(names: list[str], subject: Subject, settings: Settings, key: str = "measure") -> None:
    """Raises HiresError for the first measure that the subject has no network for, naming what is missing and what remains, and for
    settings that cannot work.
    """
    check_ranges(settings)
    for name in names:
        lacking = [LACKS[need] for need in MEASURES[name].NEEDS if getattr(subject, need) is None]
        if lacking:
            there = _able(names, subject)
            instead = f"; say {key}={','.join(there)}" if there else ""
            raise HiresError(f"{key}={name}: {subject.name} has no {lacking[0]}{instead}")
        if hasattr(MEASURES[name], "check"):
            MEASURES[name].check(settings)


def _able(names: list[str], subject: Subject) -> list[str]:
    return [name for name in names if all(getattr(subject, need) is not None for need in MEASURES[name].NEEDS)]
