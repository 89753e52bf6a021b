"""A sheet of held-out pictures and what several runs give back for them, side by side: the same pictures for all, not chosen.

    python experiments/side_by_side.py data=data/fashion runs=runs/triangle,runs/vae out=sheet.png count=24

Below each strip stand the runs' errors of that picture, the root of the mean square on [-1, 1]; above it the runs' names.
"""

from pathlib import Path
import sys

import claims
import torch

from hires.errors import HiresError
from pipelines.errors import DataError


def main(*words: str) -> None:
    """Write the sheet."""
    given = claims.given(words, data="", runs="", out="", count="24")
    for key in ("data", "runs", "out"):
        if not given[key]:
            sys.exit(f"{key}=: wanted data=FOLDER runs=RUN,RUN out=SHEET.png")
    from hires.evaluation.material import Material
    from hires.media.sheets import save_sheet
    from pipelines import Shards

    runs, count, shards = [Path(run) for run in given["runs"].split(",")], int(given["count"]), Shards.open(given["data"])
    strips = []
    with torch.no_grad():
        for run in runs:
            subject = claims.subject(run)
            if not (subject.encode and subject.decode):
                sys.exit(f"{run}: {subject.system} gives nothing back; wanted a run with generator and inference model")
            x = Material(subject, shards, count).held_out()
            if strips and x.shape != strips[0].shape:
                sys.exit(f"{run}: pictures {tuple(x.shape)}; wanted {tuple(strips[0].shape)}, as of the first run")
            strips = strips or [x]
            strips.append(subject.decode(subject.encode(x)).clamp(-1, 1))
    errors = [(strip - strips[0]).square().mean((1, 2, 3)).sqrt() for strip in strips[1:]]
    captions = ["   ".join(f"{error:.3f}" for error in of) for of in zip(*errors, strict=True)]
    title = f"{count} held-out pictures of {Path(given['data']).name}, as they are and given back"
    save_sheet(given["out"], torch.stack(strips, 1), captions, ["held out", *(run.name for run in runs)], title)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (HiresError, DataError) as error:
        sys.exit(str(error))
