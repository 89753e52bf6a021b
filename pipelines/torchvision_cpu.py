"""torchvision, also beside a CPU build of torch: `from pipelines.torchvision_cpu import torchvision`.

torchvision from the registry registers fake kernels for two operators of its compiled part, which does not load without CUDA; the plain
import then ends with "operator torchvision::nms does not exist". Declaring the two schemas is enough for transforms, datasets, utils and
models; `torchvision.io` JPEG and box operators stay dead. Where the plain import works, nothing of this runs.
"""

import torch

try:
    import torchvision
except RuntimeError as error:
    if "operator torchvision::nms does not exist" not in str(error):
        raise
    _schemas = torch.library.Library("torchvision", "FRAGMENT")  # kept: the schemas live as long as this object
    for _name in ("nms", "qnms"):
        _schemas.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
