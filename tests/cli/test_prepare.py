"""`hires prepare` around `pipelines.prepare`: its progress bar."""

import threading

from hires.verbs import prepare as verb
from pipelines import PrepareConfig


def test_the_bar_takes_any_path_and_has_no_thread_that_workers_would_be_forked_beside(monkeypatch, capsys):
    """rich would take [/x] for markup; and a lock that a thread holds while this process forks stays held in the child."""

    def prepared(config: PrepareConfig, progress) -> dict:
        before = threading.active_count()
        for done, total in ((1, None), (0, 2), (2, 2)):
            progress(done, total)
        assert before == threading.active_count() == threads
        return {"status": "prepared", "train": 2}

    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes what it writes to for a terminal
    threads = threading.active_count()
    monkeypatch.setattr(verb, "prepare", prepared)
    assert verb.run(PrepareConfig(path="in [x]", out="out [/x]")).report["train"] == 2
    out, err = capsys.readouterr()
    assert out == "out [/x]: prepared, train 2\n" and "list in [x]" in err and "prepare out [/x]" in err


def test_a_file_gets_the_outcome_alone(monkeypatch, capsys):
    monkeypatch.setattr(verb, "prepare", lambda config, progress: progress(1, 2) or {"status": "prepared", "train": 2})
    verb.run(PrepareConfig(path="in", out="out"))
    assert capsys.readouterr() == ("out: prepared, train 2\n", "")
