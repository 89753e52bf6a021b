"""What a run hands over: a folder that loads without this project, checked before it appears."""

from collections.abc import Sequence
import copy
import hashlib
import json
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
from typing import Any

from safetensors.torch import save
import torch
from torch import Tensor, nn

from hires.bundle import hires_bundle
from hires.bundle.aggregate import Aggregate
from hires.bundle.card import card
from hires.bundle.formats import write_formats
from hires.errors import HiresError
from hires.ground.files import whole_folder
from hires.ground.images import save_grid, to_uint8
from hires.networks import Energy, Generator, Inference, NetworkConfig, batch_norm, dcgan, p2, p3, p4
from hires.networks.expert_energy import ExpertEnergy, GanEnergy
from hires.networks.growing import EqualizedConv2d, EqualizedLinear, resolutions_up_to
from hires.networks.pair_energy import PairEnergy
from hires.networks.transition import POINT, Decoder, Encoder

KNOWN: dict[str, Any] = {  # to hires_bundle.py
    "generator": (Generator, Decoder, dcgan.Up, p3.Generator, p3.Decoder),
    "inference": (Inference, Encoder, dcgan.DownToCode, p3.Encoder),
    "energy": (Energy, PairEnergy, ExpertEnergy, GanEnergy, dcgan.DownToEnergy, p2.PairEnergy, p3.ExpertEnergy, p3.GanEnergy, p4.Energy),
    "variational": (Energy, dcgan.DownToEnergy, p4.Energy),
}
SCORED = (GanEnergy, dcgan.DownToScore, p3.GanEnergy)  # a GAN's energies
PLAYERS = ("generator", "inference", "energy")  # of the triangle
CHECKED_SEEDS = [0, 1, 2]
PREVIEW_SEEDS = list(range(16))

# Run by a fresh interpreter, isolated (-I) and in another folder; prints what differs.
CHECK = """
import importlib.util, os, sys
sys.modules["hires"] = None  # an editable install would still be found: out of reach, whatever the interpreter has installed
folder, expected, *seeds = sys.argv[1:]
spec = importlib.util.spec_from_file_location("hires_bundle", folder + "/hires_bundle.py")
hires_bundle = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hires_bundle)

def compare(got, want, what):
    if got.shape != want.shape:
        sys.exit(f"{what} of seeds {seeds}: shape {tuple(got.shape)}, wanted {tuple(want.shape)}")
    difference = (got - want).abs().max().item()
    allowed = 1e-4 * max(1.0, want.abs().max().item())
    if not difference <= allowed:  # so that NaN fails
        sys.exit(f"{what} of seeds {seeds} differ by {difference:.3g} from the network's own, allowed {allowed:.3g}")

want = hires_bundle.load_file(expected)
bundle = hires_bundle.load(folder)
x = want["images"]
compare(bundle.sample([int(seed) for seed in seeds], steps=2), x, "images")
inputs = {"generator": bundle.latents([int(seed) for seed in seeds]), "inference": x, "energy": x, "variational": x}
inputs = {name: batch for name, batch in inputs.items() if getattr(bundle, name)}
outputs = {"generator": ["drawn"], "inference": ["mu", "logvar"], "energy": ["energy"], "variational": ["variational"]}
for name in inputs:
    networks = {"safetensors": getattr(bundle, name)}
    if os.path.exists(path := f"{folder}/{name}.onnx"):
        import onnxruntime
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        feed = session.get_inputs()[0].name
        networks["onnx"] = lambda batch: [hires_bundle.torch.from_numpy(a) for a in session.run(None, {feed: batch.numpy()})]
    if os.path.exists(path := f"{folder}/{name}.pt2"):
        networks["pt2"] = hires_bundle.torch.export.load(path).module()  # written a moment ago by this very export
    for form, network in networks.items():
        for count in (1, len(seeds)):
            got = network(inputs[name][:count])
            for output, one in zip(outputs[name], got if isinstance(got, (list, tuple)) else [got]):
                compare(one, want[output][:count], f"{output} ({form}, {count} at once)")
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
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            tensors[f"{name}.weight"] = module.weight
            if module.bias is not None:
                tensors[f"{name}.bias"] = module.bias
            before, turned = name, isinstance(module, nn.ConvTranspose2d)
        elif isinstance(module, p4.BlockByClass | nn.GroupNorm):
            tensors |= dict(module.named_parameters(name, recurse=False))
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            # of the layer before it, which has no bias; its outputs are its weight's first dimension, of a transposed one the second
            gain = module.weight * torch.rsqrt(module.running_var + module.eps)
            weight = tensors[f"{before}.weight"]
            tensors[f"{before}.weight"] = weight * gain.view(-1, *[1] * (weight.dim() - 1 - turned))
            tensors[f"{before}.bias"] = module.bias - module.running_mean * gain
    head = "levels.4x4.head"
    if isinstance(network, SCORED):  # U = softplus(-s)
        head = head if isinstance(network, GanEnergy) else "head"
        tensors |= {f"{head}.{name}": -tensors[f"{head}.{name}"] for name in ("weight", "bias")}
    if isinstance(network, Encoder):  # a log-variance that is the same everywhere
        weight, bias = tensors[f"{head}.weight"], tensors[f"{head}.bias"]
        tensors[f"{head}.weight"] = torch.cat([weight, torch.zeros_like(weight)])
        tensors[f"{head}.bias"] = torch.cat([bias, torch.full_like(bias, POINT)])
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}


def forms(networks: dict[str, nn.Module]) -> dict:
    """What config.json says of how a network's outputs are made of its layers."""
    U, G = networks.get("energy"), networks.get("generator")
    found = {"energy_form": getattr(U, "form", "identity"), "energy_takes": "xz" if isinstance(U, PairEnergy | p2.PairEnergy) else "x"}
    if isinstance(U, ExpertEnergy | p3.ExpertEnergy):
        head = U.head if isinstance(U, p3.ExpertEnergy) else U.levels["4x4"].head
        found |= {"energy_form": "experts", "experts": len(head.bias), "energy_scale": float(U.scale)}
    if isinstance(U, SCORED):
        found["energy_form"] = "softplus"
    found |= {"squashes": isinstance(G, Decoder | p3.Decoder)} if G else {}
    if normed := [name for name, network in networks.items() if batch_norm.layers(network)]:
        found["normed"] = normed
    if isinstance(U, dcgan.Down) and U.norm == "layer":
        found["energy_norm"] = U.norm
    return found | {f"has_{name}": name in networks for name in KNOWN}


def widths_of(config: NetworkConfig, resolution: int, networks: dict[str, nn.Module]) -> dict:
    """Channels: of growing networks by resolution, of fixed ones those of each network's layers by its name."""
    if config.kind == "growing":
        return {str(r): config.channels(r) for r in resolutions_up_to(resolution)}
    U = networks.get("energy")
    return {name: network.widths for name, network in networks.items()} | ({"latent": U.of_latent} if isinstance(U, p2.PairEnergy) else {})


def write_bundle(
    out: Path,
    config: NetworkConfig,
    resolution: int,
    networks: dict[str, nn.Module],
    info: dict,
    formats: Sequence[str] = (),
    chains: dict[str, float] | None = None,
    aggregate: Aggregate | None = None,
) -> Path:
    """Write the bundle of `networks` (stable at `resolution` pixels) as the new folder `out`, and return it.

    There is a generator among them or an energy and `chains`, the Langevin steps that the bundle draws with: see chains.chains_of. `info`
    goes into config.json and the model card: see card.facts. `formats` are other formats to add, from parse_formats; `aggregate` are the
    moments of the codes, where fitted. The networks may be on any device and in any mode and are left as they are. The folder appears under
    its name when a process without this project has loaded it and given the same pictures (of chains: after two steps), codes and energies
    to 1e-4, in each format. Raises HiresError if `out` exists,
    a network is missing, in a fade or of another resolution, the check fails, or the system refuses to write.
    """
    out = Path(out)
    require_new(out)
    if not ("energy" in networks if chains else "generator" in networks):
        there = ", ".join(sorted(networks)) or "none"
        raise HiresError(f"{out}: networks {there}; a bundle wants a generator, or an energy and Langevin chains, to draw with")
    for name, network in networks.items():
        if isinstance(network, p3.Encoder) and "onnx" in formats:
            raise HiresError("formats=onnx: the codes of network=p3 need the inverse of erf, which ONNX does not have; leave it out")
        if not isinstance(network, KNOWN.get(name, ())):
            raise HiresError(f"{out}: the {name} is of class {type(network).__name__}; a bundle holds those of the systems here")
        if network.fading or network.resolution != resolution:
            state = "in a fade" if network.fading else "stable"
            raise HiresError(f"{out}: the {name} is {state} at {network.resolution} pixels, a bundle wants it stable at {resolution}")
    networks = {name: copy.deepcopy(network).cpu().float().eval() for name, network in networks.items()}
    with whole_folder(out) as folder:
        write_files(folder, config, resolution, networks, info, out.name, formats, chains, aggregate)
        check(folder, networks)
    return out


def require_new(out: Path) -> None:
    """Raises HiresError if there is something at `out`."""
    if out.exists():
        raise HiresError(f"{out}: exists already; a bundle is never written over another, choose a new name")


def write_files(
    folder: Path,
    config: NetworkConfig,
    resolution: int,
    networks: dict[str, nn.Module],
    info: dict,
    title: str,
    formats: Sequence[str] = (),
    chains: dict[str, float] | None = None,
    aggregate: Aggregate | None = None,
) -> None:
    """The files of a bundle, unchecked, in a folder that is new or empty; networks on the CPU, in fp32 and eval mode."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{name}.safetensors" for name in KNOWN if name in networks]
    for path in paths:
        # not save_file, whose files (safetensors 0.8) nobody but their owner may read
        path.write_bytes(save(fold(networks[path.stem])))
    if aggregate:
        paths.append(folder / "aggregate.safetensors")
        paths[-1].write_bytes(save({"mean": aggregate.mean, "factor": aggregate.factor}))
    document = {
        "format": hires_bundle.FORMAT,
        "kind": config.kind,
        "resolution": resolution,
        "latent": config.latent,
        "image_channels": config.image_channels,
        "convs": config.convs,
        "downsampling": config.downsampling,
        "widths": widths_of(config, resolution, networks),
        **forms(networks),
        **({"chains": chains} if chains else {}),
        **({"classes": config.classes} if config.classes else {}),
        **({"aggregate": aggregate.told()} if aggregate else {}),
        "info": info,
    }
    _write_json(folder / "config.json", document)
    paths.append(Path(shutil.copyfile(hires_bundle.__file__, folder / "hires_bundle.py")))
    bundle = hires_bundle.load(folder)
    paths += write_formats(folder, bundle, list(formats))
    document["sha256"] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    document["seed_pictures_sha256"] = picture_hashes(bundle, CHECKED_SEEDS)
    _write_json(folder / "config.json", document)
    document["sha256"]["config.json"] = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    (folder / "README.md").write_text(card(document, title, list(formats)), encoding="utf-8")
    save_grid(bundle.sample(PREVIEW_SEEDS), folder / "preview.png", columns=4)


def picture_hashes(bundle: hires_bundle.Bundle, seeds: list[int]) -> dict[str, str]:
    """The sha256 of each seed's picture as bytes, row by row (H, W, C), all seeds in one call of `bundle.sample`."""
    pictures = to_uint8(bundle.sample(seeds)).permute(0, 2, 3, 1).contiguous().numpy()
    return {str(seed): hashlib.sha256(picture).hexdigest() for seed, picture in zip(seeds, pictures, strict=True)}


def _write_json(path: Path, document: dict) -> None:
    path.write_text(json.dumps(document, indent=2, default=str) + "\n", encoding="utf-8")


@torch.no_grad()
def check(folder: Path, networks: dict[str, nn.Module]) -> None:
    """Compare the bundle in `folder`, loaded by a process without this project, with the networks it was made of.

    Raises HiresError saying which output differs, by how much, or why it does not load.
    """
    written = hires_bundle.load(folder)
    G, U, I, H = (networks.get(name) for name in ("generator", "energy", "inference", "variational"))  # noqa: E741 - the papers' names

    def energy(x: Tensor, *labels: Tensor) -> Tensor:
        if isinstance(U, PairEnergy | p2.PairEnergy):
            return U(x, I(x)[0])  # a picture with the mean of its posterior
        return U(x, 1.0, *labels)

    size = written.resolution, written.latent
    own = hires_bundle.Bundle(written.config, written.device, G, I, energy if U else None, *size, aggregate=written.aggregate)
    images = own.sample(CHECKED_SEEDS, steps=2)  # more would be more than rounding apart
    mu, logvar = I(images) if I else (None, None)
    expected = {"images": images, "mu": mu, "logvar": logvar, "drawn": G(own.latents(CHECKED_SEEDS)) if G else None}
    expected |= {"energy": energy(images) if U else None, "variational": H(images) if H else None}
    with tempfile.TemporaryDirectory() as elsewhere:
        tensors = {name: tensor.contiguous() for name, tensor in expected.items() if tensor is not None}
        (Path(elsewhere) / "expected.safetensors").write_bytes(save(tensors))
        command = [sys.executable, "-I", "-B", "-c", CHECK, str(folder.absolute()), "expected.safetensors", *map(str, CHECKED_SEEDS)]
        result = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f"status {result.returncode}"])[-1]
        raise HiresError(f"the bundle does not load on its own: {reason}")
