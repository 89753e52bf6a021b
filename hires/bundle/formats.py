"""A bundle's networks in other formats: ONNX, and what torch.export writes. Both take batches of any size."""

from importlib.util import find_spec
import io
from pathlib import Path
import warnings

import torch
from torch import Tensor, nn

from hires.bundle.hires_bundle import Bundle
from hires.errors import HiresError

FORMATS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": ()}  # and the packages that each needs
OPSET = 18  # of ONNX: the oldest that the exporter writes without converting
NAMES = {"generator": ("z", ["images"]), "inference": ("x", ["mu", "logvar"]), "energy": ("x", ["energy"]), "variational": ("x", ["h"])}


def parse_formats(text: str) -> list[str]:
    """'onnx,pt2' as a list, each once; raises HiresError for another format or one whose packages are not installed."""
    formats = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in formats:
        if name not in FORMATS:
            raise HiresError(f"formats={text}: {name!r}, wanted {', '.join(FORMATS)} or several separated by commas")
        missing = [package for package in FORMATS[name] if find_spec(package) is None]
        if missing:
            raise HiresError(f"formats={text}: {name} needs {', '.join(missing)}, not installed: pip install 'hires[onnx]'")
    return formats


def write_formats(folder: Path, bundle: Bundle, formats: list[str]) -> list[Path]:
    """Write the bundle's networks (on the CPU) into `folder` in each of the formats; returns the files."""
    written = []
    for name, (takes, gives) in NAMES.items() if formats else ():
        if getattr(bundle, name) is None:
            continue
        shape = (bundle.latent,) if name == "generator" else (bundle.config["image_channels"], bundle.resolution, bundle.resolution)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's to itself
            program = _export(getattr(bundle, name), torch.zeros(2, *shape))  # of one, the batch would be taken for a constant
            made = {form: _onnx(program, takes, gives) if form == "onnx" else _pt2(program) for form in formats}
        for form, data in made.items():
            written.append(folder / f"{name}.{form}")
            written[-1].write_bytes(data)
    return written


def _export(network: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    program.example_inputs = None  # the one thing in such a file that would be pickled
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names of folders on this machine
    return program


def _onnx(program: torch.export.ExportedProgram, takes: str, gives: list[str]) -> bytes:
    names = {"input_names": [takes], "output_names": gives, "dynamic_shapes": ({0: "batch"},)}
    return torch.onnx.export(program, **names, dynamo=True, opset_version=OPSET, verbose=False).model_proto.SerializeToString()


def _pt2(program: torch.export.ExportedProgram) -> bytes:
    buffer = io.BytesIO()  # into a file it would tell a full disk in a way of its own
    torch.export.save(program, buffer)
    return buffer.getvalue()
