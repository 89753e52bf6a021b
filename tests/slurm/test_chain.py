"""Which jobs `slurm/chain` submits: from the schedule, schedule.nodes_at and the images that the run has seen."""

import pytest

from hires import config as configuration
from hires.checkpoints import reading
from hires.errors import HiresError
from hires.slurm import jobs, preflight
from hires.training.schedule import LevelConfig, Schedule, ScheduleConfig

LEVELS = [f"schedule.levels.{r}.{what}" for r in (4, 8, 16, 32) for what in ("batch=32", "stable=640")] + ["schedule.resolution=32"]


def asked(tmp_path, *settings: str, tasks: int = 8) -> list[tuple[int, int]]:
    fades = [f"schedule.levels.{r}.fade=0" for r in (8, 16, 32)]
    return jobs.chain(configuration.load("train", [*LEVELS, *fades, f"run={tmp_path}", "data.root=x", *settings]), tasks)


def saved(run, images):
    """A checkpoint as far as its name goes."""
    folder = run / "checkpoints" / reading.folder_name(images)
    folder.mkdir(parents=True)
    (folder / reading.MANIFEST).write_text("{}")


def test_a_job_for_each_number_of_nodes(tmp_path):
    """To the end of its last level; levels that are not named have the nodes of those below."""
    assert asked(tmp_path, "schedule.nodes_at=4:1,16:2,32:4") == [(1, 1280), (2, 1920), (4, 2560)]


def test_levels_with_the_same_nodes_share_a_job(tmp_path):
    assert asked(tmp_path, "schedule.nodes_at=32:1,4:2,16:2,8:1") == [(2, 640), (1, 1280), (2, 1920), (1, 2560)]


def test_what_the_run_has_seen_is_left_out(tmp_path):
    """The chain submitted once more goes on where it was; at the end there is nothing to submit."""
    nodes = "schedule.nodes_at=4:1,16:2,32:4"
    for images, left in ((1000, [(1, 1280), (2, 1920), (4, 2560)]), (1280, [(2, 1920), (4, 2560)]), (2560, [])):
        saved(tmp_path, images)
        assert asked(tmp_path, nodes) == left


def test_max_images_ends_the_chain(tmp_path):
    assert asked(tmp_path, "schedule.nodes_at=4:1,16:2,32:4", "train.max_images=1500") == [(1, 1280), (2, 1500)]


def test_batch_that_does_not_divide_is_refused_before_anything_is_submitted(tmp_path):
    """Over the processes of the largest job, which would fail days later."""
    with pytest.raises(HiresError, match=r"schedule.levels.4.batch=32: not divisible by the world size 64"):
        asked(tmp_path, "schedule.nodes_at=4:1,32:8")
    assert asked(tmp_path, "schedule.nodes_at=4:1,32:8", tasks=4) == [(1, 1920), (8, 2560)]


def test_without_nodes_there_is_no_chain(tmp_path):
    with pytest.raises(HiresError, match=r"schedule.nodes_at is empty: wanted .* such as 4:1,64:2"):
        asked(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("4", "wanted levels and numbers"),
        ("4:0", "wanted levels"),
        ("4:1,100:2", "no 100"),
        ("8:2", "no entry for 4x4"),
        ("4:1;8:2", "wanted"),
    ],
)
def test_wrong_nodes_are_refused_in_one_line(text, said):
    with pytest.raises(HiresError) as refusal:
        Schedule(ScheduleConfig(levels={"4": LevelConfig(stable="9"), "8": LevelConfig(stable="9")}, nodes_at=text))
    assert said in str(refusal.value) and f"schedule.nodes_at={text}" in str(refusal.value)


@pytest.mark.parametrize(("here", "heeded"), [("1", True), ("2", False)])
def test_one_job_says_that_it_does_not_heed_it(tmp_path, monkeypatch, here, heeded):
    """Submitted by sbatch instead of slurm/chain; a job of a chain has the nodes that its levels want."""
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", here)
    settings = ["schedule.nodes_at=4:1,32:2", "train.max_images=640"]
    note = preflight.note(configuration.load("train", [*LEVELS, "schedule.levels.8.fade=0", f"run={tmp_path}", "data.root=x", *settings]))
    assert ("slurm/chain" in note) != heeded
