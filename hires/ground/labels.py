"""Labels of prepared pictures: the sources of MNIST, CIFAR-10 and the digits write them into the keys, 'train/00042_7'."""

import re

import torch
from torch import Tensor

from hires.errors import HiresError


def labels_of(keys: list[str], where: str) -> Tensor:
    """The numbers that the keys end in, (N,) int64, each 0 or more; raises HiresError naming `where` and the first key without one."""
    found = []
    for key in keys:
        match = re.search(r"_(\d+)$", key)
        if match is None:
            raise HiresError(f"{where}: {key!r} has no label; wanted keys that end in one, such as train/00042_7 (MNIST, CIFAR-10, digits)")
        found.append(int(match[1]))
    return torch.tensor(found)
