"""How fast a bundle draws: pictures and frames a second, each path against the parts it is made of, all in one run.

    python benchmarks/sampling.py --bundle runs/faces/bundle              # on the GPU where there is one

In each round all contenders take turns, in another order each round, so that whatever else the machine does strikes all alike:

    network   forward passes of the training network of the bundle's sizes, with weights of its own: fp32, eval, nothing kept
    bundle    `bundle.sample`, and its pictures as bytes in host memory
    png       pictures that lie ready, encoded as PNG files by threads: the encoder of `sample`, alone
    sample    what `hires sample out=folder/` does
    mp4       frames that lie ready, encoded as H.264: the encoder of `video`, alone
    video     what `hires video out=clip.mp4` does, one cell

Ratios are medians over rounds of the ratio within a round: of the slower of the path's two parts, which a path reaches whose parts run
beside each other, and of both one after the other, which is what they can reach where each part alone keeps all cores busy. Nothing is
asserted.
"""

import argparse
import datetime
import os
from pathlib import Path
import platform
import statistics
import subprocess
import tempfile
import time

import torch

from hires import networks
from hires.bundle.hires_bundle import Bundle, pictures_at_once
from hires.ground.images import save_each, to_uint8
from hires.media.containers import write_video
from hires.networks import NetworkConfig
from hires.sampling.clips import Look, Travel, check_size, clip_frames, generator_of, interpolation_clip
from hires.sampling.drawing import draw
from hires.sampling.keyframes import Keyframes
from hires.sampling.saving import write_folder
from hires.sampling.seeds import open_bundle

FPS = 30
KEYS = 4
PATHS = {"bundle": ("network",), "sample": ("network", "png"), "video": ("network", "mp4")}  # and the parts that each is made of


class Sized(NetworkConfig):
    """The configuration of a network with a bundle's widths."""

    widths: dict[str, int]

    def channels(self, resolution: int) -> int:
        """Feature maps at `resolution`."""
        return self.widths[str(resolution)]


def main() -> None:
    """Parse, measure round by round, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=256, help="and about as many frames, a round and contender")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    bundle = open_bundle(args.bundle, args.device)
    with tempfile.TemporaryDirectory() as folder:
        contenders = make_contenders(bundle, args.pictures, Path(folder))
        for contender in contenders.values():
            contender(0)  # files are opened, kernels chosen, memory taken
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        counts: dict[str, int] = {}
        names = list(contenders)
        for number in range(1, args.rounds + 1):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                began = time.perf_counter()
                counts[name] = contenders[name](number)
                seconds[name].append(time.perf_counter() - began)
    print(header(bundle, args))
    rates = {name: [counts[name] / s for s in seconds[name]] for name in names}
    for name in names:
        print(f"| {name} | {counts[name]} | {statistics.median(rates[name]):.1f} | {ratios(name, rates)} |")


def make_contenders(bundle: Bundle, count: int, folder: Path) -> dict:
    """Name -> what it does in a round, returning how many pictures or frames it made."""
    seeds, at_once = list(range(count)), pictures_at_once(bundle.resolution)
    z = bundle.latents(seeds)
    network = training_network(bundle)
    ready = torch.cat([drawn.pictures.cpu() for drawn in draw(bundle, seeds, energies=False)])
    keys = Keyframes(bundle.latents(seeds[:KEYS]).cpu(), [str(seed) for seed in seeds[:KEYS]])
    travel, look = Travel(max(1, count // KEYS)), Look(size=check_size(0, bundle.resolution))
    frames = list(clip_frames(generator_of(bundle), keys, travel, look)[1])

    @torch.no_grad()
    def forward(_: int) -> int:
        for part in z.split(at_once):
            network(part)
        if bundle.device.type == "cuda":
            torch.cuda.synchronize()
        return count

    def sample(number: int) -> int:
        return len(write_folder(folder / f"sample-{number}", draw(bundle, seeds, energies=False)).kept)

    def png(number: int) -> int:
        (folder / f"png-{number}").mkdir()
        return save_each((folder / f"png-{number}" / f"{seed}.png", picture) for seed, picture in zip(seeds, ready, strict=True))

    return {
        "network": forward,
        "bundle": lambda _: len(to_uint8(bundle.sample(seeds)).cpu()),
        "png": png,
        "sample": sample,
        "mp4": lambda _: write_video(folder / "encoder.mp4", frames, FPS),
        "video": lambda _: interpolation_clip(bundle, keys, folder / "video.mp4", travel.frames_per_key / FPS, FPS, look=look),
    }


def training_network(bundle: Bundle) -> torch.nn.Module:
    """A training generator of the bundle's sizes on its device, in eval mode."""
    c = bundle.config
    config = Sized(kind=c["kind"], latent=c["latent"], convs=c["convs"], image_channels=c["image_channels"])
    config.widths = c["widths"]
    network = networks.build(config, "generator", bundle.resolution)
    networks.initialise(network, lambda name: torch.Generator().manual_seed(len(name)))
    return network.to(bundle.device).eval().requires_grad_(False)


def ratios(name: str, rates: dict[str, list[float]]) -> str:
    """The last two columns of a row."""
    if name not in PATHS:
        return "– | –"
    parts = list(zip(*(rates[part] for part in PATHS[name]), strict=True))
    beside = statistics.median(own / min(both) for own, both in zip(rates[name], parts, strict=True))
    in_turn = statistics.median(own * sum(1 / rate for rate in both) for own, both in zip(rates[name], parts, strict=True))
    return f"{beside:.2f} | {in_turn:.2f}"


def header(bundle: Bundle, args) -> str:
    """Where and how this was measured, and the table's head."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    device = torch.cuda.get_device_name(bundle.device) if bundle.device.type == "cuda" else platform.processor() or platform.machine()
    where = f"{datetime.date.today()}, commit {commit}, {device}, {os.cpu_count()} cores, torch's threads {torch.get_num_threads()}"
    what = f"{bundle.resolution}x{bundle.resolution}, {sum(p.numel() for p in bundle.generator.parameters()) / 1e6:.2f} M parameters"
    load = f"load {os.getloadavg()[0]:.1f} at the end, medians of {args.rounds} rounds"
    columns = ["", "pictures or frames", "a second", "of the slower part", "of both in turn"]
    return "\n".join([f"{where}; {what}; {load}", "", f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)])


if __name__ == "__main__":
    main()
