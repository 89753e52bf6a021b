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
