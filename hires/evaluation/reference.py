"""Features of a data set's pictures, kept from one evaluation to the next."""

import hashlib
import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
import torch
from torch import Tensor
import torch.distributed as dist

from hires.errors import HiresError
from hires.evaluation.feature_networks import FeatureNetwork
from hires.evaluation.material import Material, as_pictures
from hires.ground.distributed import from_first
from hires.ground.files import whole_file


def user_cache(folder: str = "") -> Path:
    """`folder`, or where that is empty hires/features in $XDG_CACHE_HOME or ~/.cache."""
    if folder:
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "hires", "features")


def require_finite(features: Tensor, network: FeatureNetwork, of: str) -> Tensor:
    """The features (N, …); raises HiresError where some of `of` are not finite."""
    wrong = (~features.isfinite().all(1)).sum().item()
    if wrong:
        raise HiresError(f"{network.told}: features of {wrong:,} of {len(features):,} {of} are not finite")
    return features


def reference(material: Material, network: FeatureNetwork, split: str, most: int, cache: Path) -> tuple[Tensor, str]:
    """Features (N, …) of `most` pictures of a split at most, from the cache or computed and put there; and a remark, mostly empty.

    They are kept by data set, level, fade-in, split, `most` and the network's hash; where the data changed since, they are computed again
    and the remark says so. What the cache had is on the first rank alone, others get (0, 0). Raises HiresError for features that are not
    finite.
    """
    shards, level = material.shards, material.subject
    root = str(shards.root) if "://" in str(shards.root) else os.path.realpath(shards.root)
    key = [root, level.resolution, level.alpha, split, most, network.hash]
    path = cache / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}.safetensors"
    features, remark = _kept(path, shards.identity) if material.first else (None, "")
    if _everywhere(features is not None):
        return (features if material.first else torch.empty(0, 0)), ""
    features = material.of_pictures(lambda x: network.of(as_pictures(x)), split, most)
    require_finite(features, network, f"pictures of the split {split}")
    if material.first and level.alpha == 1:  # of a fade-in there is another data set at each step
        try:
            with whole_file(path) as part:
                save_file({"features": features.contiguous()}, part, {"data": shards.identity, "key": json.dumps(key)})
        except HiresError as error:
            remark = "; ".join(filter(None, (remark, f"not kept ({error})")))
    return features, remark


def _kept(path: Path, identity: str) -> tuple[Tensor | None, str]:
    if not path.exists():
        return None, ""
    try:
        with safe_open(path, "pt") as file:
            if file.metadata()["data"] != identity:
                return None, "computed again: the shards changed since the cache"
            return file.get_tensor("features"), ""
    except (SafetensorError, OSError) as error:
        return None, f"computed again: {path.name} cannot be read ({str(error).splitlines()[0]})"


def _everywhere(value):
    """The first rank's value, on every rank."""
    return from_first(value) if dist.is_initialized() else value
