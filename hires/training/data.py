"""The settings of what a training reads; apart from the others, which import torch, since `hires inspect` asks for one of them."""

from dataclasses import dataclass

from omegaconf import MISSING

from hires.ground.ranges import setting


@dataclass
class DataConfig:
    """Where the shards are and how they are fed."""

    root: str = MISSING  # what `hires prepare` made: a folder, or an address (https://…, s3://…)
    loader: str = "pillow"  # pillow | dali (on the GPU where there is one)
    mirror: bool = True  # flip half of the images left to right
    cache_gb: float = setting(4.0, at_least=0)  # levels of at most this size are decoded once and held in memory
    workers: int = setting(2, at_least=0, at_most=1024)  # decoding threads for the others
    remote_cache: str = ""  # where shards of an address are kept; empty: in the user's cache folder
    remote_gb: float = setting(50.0, above=0)  # most that are kept, in 10^9 bytes
