"""Shards made by several processes at once, none of which outlives the others."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
import multiprocessing
import os
import signal
import threading
import time
import warnings

from .errors import DataError
from .listing import Shard
from .writing import Job, Stopped

Work = Callable[[Job, Shard], None]
Progress = Callable[[int, int | None], None]  # (pictures done, pictures in all); while the source is listed: (pictures listed, None)


def on_shards(work: Work, job: Job, todo: list[Shard], workers: int, progress: Progress | None) -> None:
    """Does `work` on shards in `workers` forked processes; calls `progress` about twice a second.

    Raises DataError as `work` does, once all workers have stopped, or if one of them was killed.
    """
    waiting, running, total = deque(todo), set(), job.done.value + sum(shard.images for shard in todo)
    if not todo:
        return
    context = multiprocessing.get_context("fork")
    count = min(workers or len(os.sched_getaffinity(0)), len(todo))
    with ProcessPoolExecutor(count, context, initializer=_start_worker, initargs=(work, job, os.getpid())) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < 2 * count:
                    running.add(pool.submit(_do, waiting.popleft()))
                finished, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                if progress:
                    progress(job.done.value, total)
        except BrokenProcessPool as error:
            raise DataError(f"{job.out}: a worker was killed, perhaps for memory; run hires prepare again with fewer workers") from error
        finally:
            job.stop.set()


_work: Work  # in a worker: both set when it starts
_job: Job


def _start_worker(work: Work, job: Job, parent: int) -> None:
    global _work, _job
    _work, _job = work, job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and says stop
    warnings.simplefilter("ignore")  # Pillow's remarks on odd files that decode all the same
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: int) -> None:
    # A killed parent cannot say stop, and a pool's workers would wait for it for ever.
    while os.getppid() == parent:
        time.sleep(0.3)
    os._exit(1)


def _do(shard: Shard) -> None:
    with suppress(Stopped):
        _work(_job, shard)
