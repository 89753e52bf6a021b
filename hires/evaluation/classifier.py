"""The papers' small classifier of labelled pictures: what judges transitions, and whose features stand in for Inception's."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
import torch.nn.functional as F

WIDTH = 64  # channels, and features
BATCH, RATE = 100, 3e-3  # Adam's largest rate, warmed up and annealed over the epochs


@dataclass
class Labelled:
    """Pictures of a split by number, uint8 (N, C, r, r), and their labels (N,)."""

    pixels: Tensor
    labels: Tensor

    def images(self, pick: Tensor) -> Tensor:
        """fp32 in [-1, 1]."""
        return self.pixels[pick].float() / 127.5 - 1


class Classifier(nn.Sequential):
    """The paper's classifier: three blocks of `convs` convolutions of `width` channels, pooled and dropped out between them."""

    def __init__(self, channels: int, classes: int, width: int = WIDTH, convs: int = 2):
        layers: list[nn.Module] = []
        inputs = channels
        for block in range(3):
            for _ in range(convs):
                layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                inputs = width
            if block < 2:
                layers += [nn.MaxPool2d(2), nn.Dropout(0.5)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def train(data: Labelled, classes: int, epochs: int, device: torch.device, seed: int = 0, width: int = WIDTH) -> Classifier:
    """A classifier of labels 0 … classes - 1, by Adam on the cross entropy, in eval mode on the CPU."""
    order = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(), torch.enable_grad():  # weights and dropout draw from the global generator
        torch.manual_seed(seed)
        model = Classifier(data.pixels.shape[1], classes, width).to(device, memory_format=torch.channels_last).train()
        steps = epochs * -(-len(data.labels) // BATCH)
        optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
        for _ in range(epochs):
            for pick in torch.randperm(len(data.labels), generator=order).split(BATCH):
                if len(pick) > 1:  # batch norm needs two
                    x = data.images(pick).to(device, memory_format=torch.channels_last)
                    loss = F.cross_entropy(model(x), data.labels[pick].to(device))
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                rate.step()
    return model.to("cpu", memory_format=torch.contiguous_format).eval()  # safetensors takes no other


@torch.no_grad()
def error(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the images that the model, as in use, gives a wrong label."""
    model.eval()
    found = torch.cat([model(part.contiguous(memory_format=torch.channels_last)).argmax(1) for part in images.split(500)])
    return (found != labels).float().mean().item()
