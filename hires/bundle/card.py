"""What a bundle says of itself: where its networks come from, and the model card that tells it to people."""

import math
from pathlib import Path
import re
from typing import Any

from hires.bundle.from_run import RunNetworks
from hires.errors import HiresError
from hires.ground.outside import parse
from pipelines import DataError, Shards
from pipelines.files import LocalFiles
from pipelines.manifest import read_manifest

UNKNOWN = "not recorded"
# what model hubs know by name; anything else is `other` with its name
LICENCES = {"mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "odbl", "pddl"}
LICENCES |= {f"cc-by{more}-{version}" for more in ("", "-sa", "-nc", "-nd", "-nc-sa", "-nc-nd") for version in ("3.0", "4.0")}

CARD = """---
{license}
library_name: pytorch
pipeline_tag: unconditional-image-generation
tags:
{tags}
---

# {title}

{holds}, trained{together} by `hires` ({system}).

![The pictures of seeds 0 to 15](preview.png)

## How to load it

`hires_bundle.py`, in this folder, needs torch and safetensors alone:

```python
import sys; sys.path.insert(0, "this/folder")
import hires_bundle

bundle = hires_bundle.load("this/folder", device="cpu")
x = bundle.sample([0, 1, 2])                         # in [-1, 1]; seed n is the same picture in any list, up to rounding
{code}```
{formats}
| network | takes | gives |
|---|---|---|
{rows}{chains}{aggregate}
`((x + 1) * 127.5 + 0.5).clamp(0, 255).byte()` makes bytes of pictures. The weights are moving averages, in fp32.

## Training

{training}

## Metrics

{metrics}

## Licence

{licence}

## Integrity

`sha256sum --check README.md` reads these lines:

```
{hashes}
```

The bytes of three seeds' pictures, row by row, have these sha256 on a CPU of the machine that wrote this bundle
(elsewhere rounding may move single values by one, and with them the hash):

| seed | sha256 |
|---|---|
{seeds}

```python
pixels = ((bundle.sample({checked}) + 1) * 127.5 + 0.5).clamp(0, 255).byte()
[hashlib.sha256(bytes(picture.permute(1, 2, 0).flatten().tolist())).hexdigest() for picture in pixels]
```
"""

DRAWN = "| `bundle.generator(z)` | z ~ N(0, I), (B, {latent}) float | pictures, (B, {shape}) float, {range} |\n"
RATIO = """| `bundle.variational(x)` | pictures, as above | H, (B,) float; `bundle.log_ratio(x)` = H + U estimates log p/q, data to model |
"""
CHAINS = """
`bundle.sample` draws by Langevin on the energy: {steps} steps {step},
e ~ N(0, I), from {start}; `steps=…` takes more or fewer.{classes} After many steps rounding is no longer small:
another machine, or another list of seeds, may see other pictures.
"""
STEP = "x ← clamp(x − clamp({step_size:g} r² ∂U/∂x, ±{reach:g}) + {noise:g} e, ±1)"
NOISE_FIRST = "x ← clamp(y − clamp({step_size:g} r² ∂U/∂y, ±{reach:g}), ±1), y = x + {noise:g} e"
AGGREGATE = """
`bundle.sample(seeds)` draws latents from the Gaussian of the codes of {pictures:,} training pictures, with `prior="standard"` from
N(0, I). That Gaussian is {kl_per_dimension:.3g} nats a dimension from N(0, I); its variances go from {low:.3g} to {high:.3g}, the middle
one is {middle:.3g}{diagonal}.
"""
PAIRS = """| `bundle.pair_energy(x, z)` | pictures and latents, as above | energies of pairs, (B,) float; `bundle.energy(x)` is at z = mu |
"""
ENERGY = "energy = bundle.score(x)                             # (3,), lower is more like the data\n"
ENERGY_ROW = "| `bundle.energy(x)` | pictures, (B, {shape}) float in [-1, 1] | energies, (B,) float, {energy} |\n"
CODE = "mu, logvar = bundle.infer(x)                         # q(z | x) = N(mu, diag exp(logvar))\n"
CODES = "| `bundle.inference(x)` | pictures, (B, {shape}) float in [-1, 1] | mu and logvar, (B, {latent}) float each |\n"
ENERGIES = {"identity": "of any sign", "softplus": "above 0", "experts": "from 0 to {bound:.3g}"}
OTHER_FORMATS = {
    "onnx": """
The files `*.onnx` are the same networks for ONNX runtimes, for batches of any size. Inputs are called
`z` and `x`, outputs `images`, `mu`, `logvar` and `energy`.
""",
    "pt2": """
The files `*.pt2` are the same networks as `torch.export` writes them, for batches of any size:
`torch.export.load("generator.pt2").module()(z)`. That function can run code that a file holds: use it on files you trust alone.
""",
}


def facts(loaded: RunNetworks, run: str) -> dict[str, Any]:
    """What is known of a checkpoint's making, for config.json and the card; 'not recorded' stands where something is not.

    The commit is that of the run's last start; data licence and counts come from the manifest of the shards where they still lie in the
    folder that the run was given and are those it was trained on; metrics from RUN/evaluation-IMAGES.json. Raises HiresError where a file
    that is there cannot be read.
    """
    folder, root = Path(run), loaded.config.data.root
    commit = _read_json(folder / "environment.json").get("commit", UNKNOWN)
    metrics = _read_json(folder / f"evaluation-{loaded.images:012d}.json")
    return {
        "system": loaded.config.objective.name,
        "run": folder.resolve().name,
        "images_seen": loaded.images,
        "seed": loaded.config.train.seed,
        "energy_weight": float(getattr(loaded.config.objective, "energy_weight", 1.0)),  # of U in the generator's loss
        "commit": UNKNOWN if commit == "unknown" else commit,
        "data": root.rstrip("/").rpartition("/")[2],  # its name: where it lies on this machine is nobody's business
        "data_sha256": loaded.data or UNKNOWN,
        **_of_the_data(root, loaded.data),
        "metrics": {key: value for key, value in metrics.items() if key not in ("of", "data")} or UNKNOWN,  # those are places as well
    }


def _of_the_data(root: str, identity: str) -> dict[str, Any]:
    found = {"data_pictures": UNKNOWN, "data_licence": UNKNOWN}
    if "://" in root:
        return found  # an export asks no network
    try:
        files = LocalFiles(root)
        manifest = read_manifest(files)
    except DataError:
        return found  # moved away, or of another version
    if Shards(files, manifest).identity != identity:
        return found
    return {"data_pictures": manifest["counts"], "data_licence": manifest["licence"] or UNKNOWN}


def _read_json(path: Path) -> dict:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise HiresError(f"{path}: cannot be read ({error}); mend or delete it") from error


def card(document: dict[str, Any], title: str, formats: list[str]) -> str:
    """The model card of a bundle with the configuration `document` (config.json): Markdown, headed by the YAML that model hubs read."""
    info = document["info"]
    metrics, licence = info.get("metrics", UNKNOWN), str(info.get("data_licence", UNKNOWN))
    size = document["resolution"]
    shape, coded = f"{document['image_channels']}, {size}, {size}", document.get("has_inference", True)
    draws, judges, chains = document.get("has_generator", True), document.get("has_energy", True), document.get("chains")
    held = [f"{'an' if name[0] in 'aei' else 'a'} {name}" for name in names(document)]
    held[0] = f"{held[0]} of {size}x{size} pictures".capitalize()
    energy = ENERGIES[document["energy_form"]].format(bound=document.get("energy_scale", 1.0) * math.log(2))
    rows = DRAWN.format(latent=document["latent"], shape=shape, range=_range(document)) * draws
    rows += CODES.format(shape=shape, latent=document["latent"]) * coded + ENERGY_ROW.format(shape=shape, energy=energy) * judges
    rows += PAIRS * (document.get("energy_takes") == "xz") + RATIO * document.get("has_variational", False)
    system = info.get("system", "divergence_triangle")
    tags = ["hires", system.replace("_", "-"), *["energy-based-model"] * judges, "image-generation", "safetensors", *formats]
    hidden = ("metrics", "data_licence")
    return CARD.format(
        license=_license(licence),
        tags="\n".join(f"- {tag}" for tag in tags),
        title=title,
        system=f"objective={system}",
        holds=listed(held),
        together=" together" if len(held) > 1 else "",
        formats="".join(OTHER_FORMATS[name] for name in formats),
        rows=rows,
        code=CODE * coded + ENERGY * judges,
        chains=_chains(chains, draws, document.get("classes", 0)) if chains else "",
        aggregate=_aggregate(document["aggregate"]) if "aggregate" in document else "",
        training="\n".join(f"- {key.replace('_', ' ')}: {_shown(value)}" for key, value in info.items() if key not in hidden) or UNKNOWN,
        metrics=_table(metrics) if isinstance(metrics, dict) else f"{metrics.capitalize()}.",
        licence=_licence(licence),
        hashes="\n".join(f"{digest}  {name}" for name, digest in document["sha256"].items()),
        seeds="\n".join(f"| {seed} | `{digest}` |" for seed, digest in document["seed_pictures_sha256"].items()),
        checked=[int(seed) for seed in document["seed_pictures_sha256"]],
    )


def names(document: dict[str, Any]) -> list[str]:
    """The networks of a bundle with the configuration `document`, as people call them."""
    called = {"generator": "generator", "inference": "inference model", "energy": "energy", "variational": "variational function"}
    return [called[name] for name in called if document.get(f"has_{name}", name != "variational")]


def listed(things: list[str]) -> str:
    """'a generator, an inference model and an energy'."""
    return " and ".join(filter(None, [", ".join(things[:-1]), things[-1]]))


def _chains(chains: dict[str, Any], from_generator: bool, classes: int) -> str:
    step = (NOISE_FIRST if chains.get("noise_first") else STEP).format(**chains)
    start = "the generator's pictures" if from_generator else "uniform noise"
    told = f" Seed n is one of class n modulo {classes}." if classes else ""
    return CHAINS.format(steps=chains["steps"], step=step, start=start, classes=told)


def _aggregate(told: dict[str, Any]) -> str:
    low, middle, high = told["variances"]
    diagonal = " (no correlations: there were no more pictures than dimensions)" * told["diagonal"]
    return AGGREGATE.format(**told | {"low": low, "middle": middle, "high": high, "diagonal": diagonal})


def _range(document: dict[str, Any]) -> str:
    return "in (-1, 1)" if document["kind"] in ("dcgan32", "dcgan64", "p2", "p3") else "about [-1, 1], not clamped"


def _license(licence: str) -> str:
    name = re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-.")[:80]
    if licence == UNKNOWN or not name:
        return "license: unknown"
    return f"license: {name}" if name in LICENCES else f"license: other\nlicense_name: {name}"


def _licence(licence: str) -> str:
    if licence == UNKNOWN:
        return "The licence of the training data is not recorded. The networks inherit it: find it out before you pass them on."
    return f"Training data: {licence}. The networks inherit the licence of the training data. `hires_bundle.py`: Apache-2.0."


def _table(metrics: dict[str, Any]) -> str:
    about = f"Against {metrics.get('images', '?')} held-out pictures of the data."
    rows = [f"| {key} | {_shown(value)} |" for key, value in metrics.items() if key not in ("resolution", "images")]
    return "\n".join([about, "", "| measure | value |", "|---|---|", *rows])


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(one)}" for key, one in value.items())
    if isinstance(value, list):
        return "; ".join(map(_shown, value)) if value and isinstance(value[0], list) else ", ".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
