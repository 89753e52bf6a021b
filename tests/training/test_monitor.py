"""What a run leaves for a person: the log of its progress lines."""

import json

import pytest

from hires.training.monitor import Monitor, read_records

STATUS = {"images": 16, "resolution": 4, "energy_gap": 1.0}


@pytest.mark.parametrize("damage", [b'{"images": 3', b"\xff\xfe\x00", b"12", b"[1, 2]", b"{}", b'{"images": "many"}', b"null", b""])
def test_a_damaged_line_is_left_out_and_the_run_goes_on(tmp_path, damage):
    """At the end or amid whole lines; what is whole up to the images stays as it was written, what lies beyond goes."""
    whole = [json.dumps(STATUS), json.dumps({"images": 16, "rollback": 1}), json.dumps(STATUS | {"images": 32})]
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b"\n".join([whole[0].encode(), damage, *(line.encode() for line in whole[1:]), damage]))
    monitor = Monitor(tmp_path, None, True, "off", {}, {})
    monitor.resume(16)
    monitor.mark({"images": 17})
    monitor.close()
    assert file.read_text().splitlines() == [*whole[:2], '{"images": 17}']
    assert [record["images"] for _, record in read_records(file)] == [16, 16, 17]


def test_tensorboard_forgets_what_a_rollback_takes_back_and_rank_0_alone_writes(tmp_path):
    """Back from 48 to 16 images in one process: the points beyond are those of the second time, and each is there once."""
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first in (True, False):
        monitor = Monitor(tmp_path / str(first), None, first, "off", {}, {}, tensorboard=True)
        (tmp_path / str(first)).mkdir()
        monitor.resume(0)
        for images in (16, 32, 48):
            monitor._log({"images": images, "x": float(images)}, images)
        monitor.resume(16)
        for images in (16, 32, 48):  # 16 has its point already
            monitor._log({"images": images, "x": 1.0}, images)
        monitor.close()
    points = reading.EventAccumulator(str(tmp_path / "True" / "tensorboard")).Reload().Scalars("x")
    assert [(point.step, point.value) for point in points] == [(16, 16.0), (32, 1.0), (48, 1.0)]
    assert not (tmp_path / "False" / "tensorboard").exists()
