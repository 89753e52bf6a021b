"""Saved by one world on one ZeRO stage, read by another: three steps later all is where the uninterrupted run is.

Every step of an uninterrupted run is saved, so that it is both where a reader begins and, three steps on, what it is compared with: fp32
weights, both moments (kept through the growth) and the moving average. Batches of 12 divide over 1, 2, 3 and 4 ranks. Adam's eps is 1e-3:
with 1e-8 an element whose gradient is rounding alone makes a step of the learning rate of it, and no two orders of sums would agree.
What another world changes is the order in which a gradient's terms are summed: how much that is, one process tells that goes on from the
same checkpoint with its batch whole and in parts; where the sums are the same (stages 0, 1, 2 and 3 on one process) it is nothing at all.
"""

from pathlib import Path
import shutil

import pytest
import torch

from hires.checkpoints import reading

pytestmark = pytest.mark.slow
STEP, GROWN, STABLE, END = 12, 36, 84, 108
MOMENTS = {"one step before the growth": GROWN - STEP, "one step after the growth": GROWN + STEP, "inside the fade": STABLE - 2 * STEP}
BEFORE, AFTER, INSIDE = MOMENTS.values()
RUN = [
    *("optimizer.eps=1e-3", "optimizer.beta1=0.9", "objective.r1=0", "schedule.growth_moments=keep"),  # stage 3 refuses the penalty
    *("schedule.levels.4.batch=12", "schedule.levels.8.batch=12", "schedule.levels.4.stable=36", "schedule.levels.8.fade=48"),
    *("schedule.levels.8.stable=24", "train.keep=99", "monitor.samples=2"),
]
# (processes, stage) that wrote -> (processes, stage) that reads, and when: every pair of stages, of 1, 2 and 4 processes, and 4 -> 3
TABLE = {
    (1, 0): {(1, 0): (INSIDE,), (2, 1): (BEFORE,), (4, 3): (AFTER,), (1, 2): (INSIDE,)},
    (2, 3): {(1, 0): (AFTER,), (4, 1): (INSIDE,), (2, 2): (BEFORE,), (2, 3): (BEFORE, AFTER, INSIDE)},
    (4, 1): {(3, 2): (INSIDE,), (2, 0): (BEFORE,), (1, 3): (AFTER,), (4, 1): (AFTER,)},
    (1, 2): {(1, 0): (INSIDE,), (2, 1): (AFTER,), (1, 2): (BEFORE,), (1, 3): (BEFORE,)},
}
CONTROLS = {"whole": [], "parts": ["schedule.levels.4.micro_batch=4", "schedule.levels.8.micro_batch=4"]}
ROWS = [(writer, reader, moment) for writer, readers in TABLE.items() for reader, moments in readers.items() for moment in moments]


def name(writer: tuple[int, int], reader: tuple[int, int], moment: int) -> str:
    return f"{writer[0]}x{writer[1]}-{reader[0]}x{reader[1]}-{moment}"


@pytest.fixture(scope="module")
def resharded(request, tiny, worlds, tmp_path_factory) -> Path:
    """A folder with the run W-S of each writer and, for the rows that are tested, one begun from the writer's checkpoint of that moment."""
    out = tmp_path_factory.mktemp("reshard")
    cases = [item.callspec.params for item in request.session.items if item.path == request.path and "moment" in item.fixturenames]
    rows = [(case["writer"], case["reader"], case["moment"]) for case in cases]
    write: dict[int, list] = {}
    for world, stage in dict.fromkeys(writer for writer, *_ in rows):
        whole = [f"run={out}/{world}x{stage}", f"zero.stage={stage}", f"train.checkpoint_every={STEP}"]
        write.setdefault(world, []).append([*tiny, *RUN, *whole])
    worlds(list(write.items()))
    read: dict[int, list] = {}

    def go_on(run: str, writer: tuple[int, int], reader: tuple[int, int], moment: int, *more: str) -> None:
        folder = Path("checkpoints", reading.folder_name(moment))
        shutil.copytree(out / f"{writer[0]}x{writer[1]}" / folder, out / run / folder)
        rest = [f"run={out / run}", f"zero.stage={reader[1]}", f"train.max_images={moment + 3 * STEP}", "train.checkpoint_every=1k"]
        read.setdefault(reader[0], []).append([*tiny, *RUN, *rest, *more])

    for writer, reader, moment in rows:
        go_on(name(writer, reader, moment), writer, reader, moment)
    for moment, writer in {moment: writer for writer, _, moment in rows}.items():
        for control, micro in CONTROLS.items():
            go_on(f"{control}-{moment}", writer, (1, 0), moment, *micro)
    worlds(list(read.items()))
    return out


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, in units of the tensor's largest element where that is above 1."""
    return ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> dict[str, float]:
    """The largest distance of each field."""
    return {field: max(distance(a[key], b[key]) for key in b if key.endswith(field)) for field in reading.FIELDS}


def everything(run: Path, images: int) -> tuple[dict[str, torch.Tensor], dict]:
    checkpoint = reading.Checkpoint(run / "checkpoints" / reading.folder_name(images))
    keys = [(p, n, f) for p in ("generator", "energy", "inference") for n in sorted(checkpoint.names(p)) for f in reading.FIELDS]
    return {f"{p}/{n}/{f}": checkpoint.read(p, n, f, 0, checkpoint.numel(p, n, f)) for p, n, f in keys}, checkpoint.manifest


@pytest.mark.campaign(4)
@pytest.mark.parametrize("writer,reader,moment", ROWS, ids=[name(*row) for row in ROWS])
def test_three_steps_later_all_is_where_the_uninterrupted_run_is(writer, reader, moment, resharded):
    there, uninterrupted = everything(resharded / f"{writer[0]}x{writer[1]}", moment + 3 * STEP)
    here, manifest = everything(resharded / name(writer, reader, moment), moment + 3 * STEP)
    assert (manifest["world_size"], manifest["zero_stage"]) == reader and manifest["steps"] == uninterrupted["steps"]
    assert here.keys() == there.keys()
    if writer[0] == reader[0] == 1 or writer == reader:
        assert all(torch.equal(here[key], there[key]) for key in there)
    else:
        whole, parts = (everything(resharded / f"{control}-{moment}", moment + 3 * STEP)[0] for control in CONTROLS)
        found, rounding = apart(here, there), apart(parts, whole)
        assert all(found[field] <= 32 * rounding[field] < 3e-4 for field in reading.FIELDS), (found, rounding)
    before, _ = everything(resharded / f"{writer[0]}x{writer[1]}", moment)
    for field in reading.FIELDS:  # the three steps and the moments are no small things
        assert max((there[key] - before[key]).abs().max().item() for key in before if key.endswith(field) and key in there) > 1e-3, field


def test_the_table_covers_every_pair():
    stages = {(writer[1], reader[1]) for writer, reader, _ in ROWS}
    sizes = {(writer[0], reader[0]) for writer, reader, _ in ROWS}
    assert stages == {(a, b) for a in range(4) for b in range(4)}
    assert sizes == {(a, b) for a in (1, 2, 4) for b in (1, 2, 4)} | {(4, 3)}
    assert {moment for *_, moment in ROWS} == set(MOMENTS.values())
