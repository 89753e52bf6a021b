"""What a run hands over: a folder that loads without this project, checked before it appears."""

import copy
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile

from safetensors.torch import save
import torch
from torch import Tensor, nn

from hires.errors import HiresError
from hires.networks import NetworkConfig
from hires.networks.growing import EqualizedConv2d, EqualizedLinear, resolutions_up_to
from hires.sampling import hires_bundle
from hires.sampling.atomic import in_words
from hires.sampling.images import save_grid

PLAYERS = ("generator", "inference", "energy")
CHECKED_SEEDS = [0, 1, 2]
PREVIEW_SEEDS = list(range(16))

# Run by a fresh interpreter, isolated (-I) and in another folder; prints what differs.
CHECK = """
import importlib.util, sys
sys.modules["hires"] = None  # an editable install would still be found: out of reach, whatever the interpreter has installed
folder, expected, *seeds = sys.argv[1:]
spec = importlib.util.spec_from_file_location("hires_bundle", folder + "/hires_bundle.py")
hires_bundle = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hires_bundle)
want = hires_bundle.load_file(expected)
bundle = hires_bundle.load(folder)
got = {"images": bundle.sample([int(seed) for seed in seeds])}
got["mu"], got["logvar"] = bundle.inference(want["images"])
got["energy"] = bundle.energy(want["images"])
for name in want:
    difference = (got[name] - want[name]).abs().max().item()
    allowed = 1e-4 * max(1.0, want[name].abs().max().item())
    if not difference <= allowed:  # so that NaN fails
        sys.exit(f"{name} of seeds {seeds} differ by {difference:.3g} from the network's own, allowed {allowed:.3g}")
"""

CARD = """# {title}

A generator of {size} pictures, an inference model and an energy, trained together by `hires`.

    import sys; sys.path.insert(0, "this/folder")
    import hires_bundle                                  # needs torch and safetensors alone

    bundle = hires_bundle.load("this/folder", device="cpu")
    images = bundle.sample([0, 1, 2])                    # seed n is the same picture in any list
    mu, logvar = bundle.inference(images.clamp(-1, 1))   # q(z | x) = N(mu, diag exp(logvar))
    energy = bundle.energy(images.clamp(-1, 1))          # lower is more like the data

| network | takes | gives |
|---|---|---|
| `bundle.generator(z)` | (B, {latent}) float, z ~ N(0, I) | (B, {shape}) float, {range} |
| `bundle.inference(x)` | (B, {shape}) float in [-1, 1] | mu and logvar, (B, {latent}) each |
| `bundle.energy(x)` | (B, {shape}) float in [-1, 1] | (B,) float, {energy} |

`((images.clamp(-1, 1) + 1) * 127.5).round().byte()` makes bytes of pictures. Weights are fp32; `preview.png` shows seeds 0 to 15.

## Where it comes from

{info}

Licence: inherits the licence of the training data.
"""


@torch.no_grad()
def fold(network: nn.Module) -> dict[str, Tensor]:
    """A network's parameters under their names with run-time scales, spectral and batch normalisation multiplied in, fp32 on the CPU.

    The network must be in eval mode: in training mode spectral normalisation takes a step each time its weight is read.
    """
    tensors = {}
    for name, module in network.named_modules():
        if isinstance(module, EqualizedConv2d | EqualizedLinear):
            tensors[f"{name}.weight"] = module.weight * module.scale
            tensors[f"{name}.bias"] = module.bias
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            tensors[f"{name}.weight"] = module.weight
            if module.bias is not None:
                tensors[f"{name}.bias"] = module.bias
        elif isinstance(module, nn.BatchNorm2d):
            # norm3 follows deconv3, a transposed convolution without bias: outputs are its weight's second dimension
            before = name.replace("norm", "deconv")
            gain = module.weight * torch.rsqrt(module.running_var + module.eps)
            tensors[f"{before}.weight"] = tensors[f"{before}.weight"] * gain[:, None, None]
            tensors[f"{before}.bias"] = module.bias - module.running_mean * gain
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}


def write_bundle(out: Path, config: NetworkConfig, resolution: int, networks: dict[str, nn.Module], info: dict) -> Path:
    """Write the bundle of `networks` (generator, inference, energy; stable at `resolution` pixels) as the new folder `out`, and return it.

    `info` goes into config.json and the model card as it is: data, images_seen, commit, ... The networks may be on any device and in any
    mode and are left as they are. The folder appears under its name when a process without this project has loaded it and given the same
    pictures, codes and energies to 1e-4. Raises HiresError if `out` exists, a network is missing, in a fade or of another resolution, the
    check fails, or the system refuses to write.
    """
    out = Path(out)
    if out.exists():
        raise HiresError(f"{out}: exists already; a bundle is never written over another, choose a new name")
    if set(networks) != set(PLAYERS):
        raise HiresError(f"{out}: networks {', '.join(sorted(networks)) or 'none'}, a bundle wants {', '.join(PLAYERS)}")
    for name, network in networks.items():
        if network.fading or network.resolution != resolution:
            state = "in a fade" if network.fading else "stable"
            raise HiresError(f"{out}: the {name} is {state} at {network.resolution} pixels, a bundle wants it stable at {resolution}")
    networks = {name: copy.deepcopy(network).cpu().float().eval() for name, network in networks.items()}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
            folder = Path(temporary) / "bundle"
            write_files(folder, config, resolution, networks, info, title=out.name)
            check(folder, networks)
            os.rename(folder, out)
    except OSError as error:
        raise HiresError(f"{out}: not written: {in_words(error)}") from error
    return out


def write_files(folder: Path, config: NetworkConfig, resolution: int, networks: dict[str, nn.Module], info: dict, title: str) -> None:
    """The files of a bundle, unchecked, in a new folder; networks on the CPU, in fp32 and eval mode."""
    folder.mkdir()
    form = getattr(networks["energy"], "form", "identity")
    for name in PLAYERS:
        # not save_file, whose files (safetensors 0.8) nobody but their owner may read
        (folder / f"{name}.safetensors").write_bytes(save(fold(networks[name])))
    document = {
        "format": hires_bundle.FORMAT,
        "kind": config.kind,
        "resolution": resolution,
        "latent": config.latent,
        "image_channels": config.image_channels,
        "convs": config.convs,
        "widths": {str(r): config.channels(r) for r in resolutions_up_to(resolution)} if config.kind == "growing" else {},
        "energy_form": form,
        "info": info,
    }
    (folder / "config.json").write_text(json.dumps(document, indent=2, default=str) + "\n", encoding="utf-8")
    shutil.copyfile(hires_bundle.__file__, folder / "hires_bundle.py")
    save_grid(hires_bundle.load(folder).sample(PREVIEW_SEEDS), folder / "preview.png", columns=4)
    card = CARD.format(
        title=title,
        size=f"{resolution}x{resolution}",
        latent=config.latent,
        shape=f"{config.image_channels}, {resolution}, {resolution}",
        range="in (-1, 1)" if config.kind == "dcgan32" else "about [-1, 1], not clamped",
        energy="above 0" if form == "softplus" else "of any sign",
        info="\n".join(f"- {key.replace('_', ' ')}: {value}" for key, value in info.items()) or "Not recorded.",
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


@torch.no_grad()
def check(folder: Path, networks: dict[str, nn.Module]) -> None:
    """Compare the bundle in `folder`, loaded by a process without this project, with the networks it was made of.

    Raises HiresError saying which output differs, by how much, or why it does not load.
    """
    z = hires_bundle.latents(CHECKED_SEEDS, hires_bundle.load(folder).latent)
    images = networks["generator"](z)
    mu, logvar = networks["inference"](images)
    expected = {"images": images, "mu": mu, "logvar": logvar, "energy": networks["energy"](images)}
    with tempfile.TemporaryDirectory() as elsewhere:
        tensors = {name: tensor.contiguous() for name, tensor in expected.items()}
        (Path(elsewhere) / "expected.safetensors").write_bytes(save(tensors))
        command = [sys.executable, "-I", "-B", "-c", CHECK, str(folder.absolute()), "expected.safetensors", *map(str, CHECKED_SEEDS)]
        result = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f"status {result.returncode}"])[-1]
        raise HiresError(f"the bundle does not stand by itself: {reason}")
