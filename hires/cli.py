"""`hires VERB key=value …`: the functions that `import hires` gives, their errors as one line, their results as an exit status."""

from collections.abc import Callable
import gc
import os
import sys
import traceback
from typing import Any

from hires.errors import HiresError
from hires.ground.interrupts import OUTPUT, interrupts_in_a_line, outlive_readers
from hires.ground.terminal import speak_utf8

VERBS = {
    "demo": "the built-in digits, or a folder of pictures -> networks and what they draw, in minutes",
    "prepare": "a folder of pictures (or the built-in digits) -> a pyramid of shards",
    "inspect": "is a prepared data set whole, what is in it, how fast does it decode?",
    "plan": "print a training schedule as a table, without training",
    "train": "train, or resume, a run",
    "checkpoints": "list a run's checkpoints; `checkpoints verify` reads them whole",
    "evaluate": "measure a run or a bundle against held-out pictures",
    "report": "a run -> one HTML page: how it went, pictures, curves, measures, checkpoints",
    "compare": "several runs -> one HTML page, side by side",
    "export": "a run -> a bundle that loads without this project",
    "sample": "a bundle -> a grid of pictures, or a folder of them",
    "reconstruct": "pictures -> codes -> pictures, side by side with their errors",
    "score": "the energy of each picture of a folder, beside training and held-out pictures",
    "restore": "pictures with noise or without some of their pixels -> pictures, by Langevin steps on the energy",
    "edit": "pictures + what folder A has more of than folder B",
    "video": "a bundle -> a clip between seeds, codes or pictures; `video growth`: a run's pictures as they grew",
    "explore": "a bundle -> a local page to draw, move between pictures and reconstruct your own",
    "slurm": "`slurm status`: how a run and its Slurm job stand",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0, 85 for "saved, run me again", 1 for a failure, reported in one line, 2 for bad usage.

    Without `arguments` it takes the process's, which it then owns: Ctrl-C ends it in one line with status 130, and a reader of its output
    that goes away ends nothing.
    """
    if arguments is not None:
        return _run(arguments)
    arguments = sys.argv[1:]
    gc.disable()  # until the verb begins: what is imported is no garbage
    with interrupts_in_a_line(" ".join(["hires", *arguments[:1]])):
        speak_utf8()
        outlive_readers()
        try:
            status = _run(arguments, _collect_garbage)
            if sys.stdout:
                sys.stdout.flush()
            return status
        except OSError as error:
            if error.filename != OUTPUT:
                raise
            return _fail(arguments[0] if arguments else "--help", f"{OUTPUT}: {error.strerror}")


def _collect_garbage() -> None:
    """From now on, and not in what was imported: each full collection, as at a player's end, would go through all of it."""
    gc.freeze()
    gc.enable()


def _run(arguments: list[str], begin: Callable[[], None] | None = None) -> int:
    if not arguments or arguments[0] in ("-h", "--help") or arguments[0] not in VERBS:
        unknown = bool(arguments) and arguments[0] not in ("-h", "--help")
        lines = [f"hires: no verb {arguments[0]!r}"] if unknown else []
        lines += ["usage: hires VERB key=value …", ""] + [f"  {verb:11} {text}" for verb, text in VERBS.items()]
        print("\n".join([*lines, "", "  hires VERB --help prints the verb's settings"]), file=sys.stderr if unknown else sys.stdout)
        return 2 if unknown else 0
    verb, overrides = spelled_out(arguments)
    name = verb.replace(" ", "_")  # of its configuration and its file
    if "--help" in overrides or "-h" in overrides:
        from hires import help

        print(help.text(name))
        return 0
    from hires.verbs import call

    # training alone ends a process that hangs, and counts its time from the process's start
    own: dict[str, Any] = {"owns_process": True} if verb == "train" else {}
    own |= {"begin": begin} if begin else {}
    try:
        return call(name, overrides, **own).status
    except HiresError as error:
        return _fail(verb, str(error))
    except Exception:
        from hires.verbs import processes

        if processes() == 1:
            raise
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # as in _fail


def spelled_out(arguments: list[str]) -> tuple[str, list[str]]:
    """(verb, overrides) of a command whose second word may be one without `=`: `checkpoints verify`, `slurm status`, `video growth`."""
    verb, overrides = arguments[0], arguments[1:]
    if (verb, *overrides[:1]) in (("checkpoints", "verify"), ("slurm", "status")):
        return verb, [f"action={overrides[0]}", *overrides[1:]]
    if (verb, *overrides[:1]) == ("video", "growth"):
        return "video growth", overrides[1:]
    return verb, overrides


def _fail(verb: str, text: str) -> int:
    print(f"hires {verb}: error: {text}".replace(f"error: hires {verb.replace(' ', '_')}:", "error:"), file=sys.stderr, flush=True)
    from hires.verbs import processes

    if processes() > 1:
        os._exit(1)  # the other ranks may wait in a collective; torchrun and srun end them when this one fails
    return 1


if __name__ == "__main__":
    sys.exit(main())
