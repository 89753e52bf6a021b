"""Ctrl-C at any moment ends a command in one line with status 130; a reader of its output that goes away ends nothing."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

from hires import config as configuration
from hires.ground.interrupts import interrupts_in_a_line, outlive_readers
from hires.training.monitor import Monitor
from hires.training.trainer import Trainer

HIRES = [sys.executable, "-m", "hires"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "library", "number"),
    [
        ("train", "libtorch_cpu", signal.SIGINT),
        ("evaluate", "libtorch_python", signal.SIGINT),
        ("prepare", "_multiarray_umath", signal.SIGINT),
        ("sample", "_multiarray_umath", signal.SIGINT),
        ("train", "libtorch_python", signal.SIGTERM),
    ],
)
def test_a_signal_while_it_imports(clean_env, tmp_path, verb, library, number):
    """`library` tells the moment: just when the process has mapped it, in the middle of importing numpy or torch."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*HIRES, verb], env=clean_env, cwd=tmp_path, **pipes) as process:
        while process.poll() is None and library not in Path(f"/proc/{process.pid}/maps").read_text():
            time.sleep(0.001)
        process.send_signal(number)
        out, said = process.communicate()
    told = (130, f"hires {verb}: interrupted\n") if number == signal.SIGINT else (-number, "")
    assert (process.returncode, said, out) == (*told, "")


@pytest.mark.slow
def test_an_interrupt_while_it_exports_to_onnx(forks, world, tiny, clean_env, tmp_path):
    """At moments of the processor's clock: while it imports the exporter, while torch traces a network, later in its own work."""
    pytest.importorskip("onnxscript")
    Trainer(configuration.load("train", [*tiny, f"run={tmp_path}/run", "schedule.resolution=4", "train.max_images=32"]), world).train()
    code = (
        "import os, signal, sys; from hires.cli import main\n"
        "signal.signal(signal.SIGVTALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))\n"
        "signal.setitimer(signal.ITIMER_VIRTUAL, float(sys.argv.pop(1)))\n"
        "sys.exit(main())"
    )
    for moment in ("0.3", "1.5", "3"):
        words = [sys.executable, "-c", code, moment, "export", f"run={tmp_path}/run", f"out={tmp_path}/bundle", "formats=onnx"]
        done = forks.run(words, env=clean_env, timeout=300)
        assert (done.returncode, done.stderr) == (130, "hires export: interrupted\n"), moment
        assert not (tmp_path / "bundle").exists()


LOSING = {
    "another error": "try: os.kill(0, 2)\n except BaseException: raise ValueError('from a library')",
    "nothing": "class A:\n  def __del__(self): os.kill(0, 2)\n A(); time.sleep(60)",
    "nothing, until asked again": "try: os.kill(0, 2)\n except BaseException: pass\n os.kill(0, 2); time.sleep(60)",
    "what a second handler raises": "signal.signal(2, signal.default_int_handler); os.kill(0, 2)",
}


@pytest.mark.parametrize("loss", LOSING)
def test_what_libraries_make_of_an_interrupt(loss):
    code = f"import os, signal, time\nfrom hires.ground.interrupts import *\nwith interrupts_in_a_line('hires x'):\n {LOSING[loss]}\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, start_new_session=True)
    assert (done.returncode, done.stderr) == (130, "hires x: interrupted\n")


def test_an_interrupt_that_is_ignored_stays_so():
    """As in a script's background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_in_a_line("hires x"):
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("words", [["--help"], ["nothing"], ["train", "--help"], ["plan", "experiment=digits", "data.root="]])
@pytest.mark.parametrize("left", ["the reader", "room"])
def test_a_reader_that_goes_away(forks, clean_env, digits, words, left):
    """`hires … | head -1` goes on to its end; a full disk under its output is told."""
    words = [word if word != "data.root=" else f"data.root={digits}" for word in words]
    fine = forks.run([*HIRES, *words], env=clean_env, timeout=100)
    gone, out = os.pipe()
    os.close(gone)
    if left == "room":
        os.dup2(os.open("/dev/full", os.O_WRONLY), out)
    with open(out, "w") as lost:
        process = forks.start([*HIRES, *words], env=clean_env, stdout=lost, stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=100)
    if left == "room" and fine.stdout:
        assert process.returncode == 1
        assert said.endswith("error: standard output: No space left on device\n") and said.count("\n") == 1
    else:
        assert (process.returncode, said) == (fine.returncode, fine.stderr)


def test_an_output_that_was_closed_before_the_start(tmp_path, monkeypatch):
    """`hires train … >&-`, where Python has no stream at all."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    outlive_readers()
    Monitor(tmp_path, None, True, "off", {}, {}).say("kimg")
    print("done", file=sys.stderr, flush=True)
    assert sys.stdout.name == sys.stderr.name == os.devnull
