"""A training step by OpenMP threads and by how they wait, on an idle machine and beside busy neighbours.

    python benchmarks/threads.py                       # every number of threads up to the cores, two ways to wait
    python benchmarks/threads.py --neighbours 4        # beside four processes that never rest

Each cell is a process of its own, since OpenMP reads its settings once. Its step is one round of the divergence triangle's arithmetic:
the three networks (`network=slim` where nothing else is asked for), forward, backward and fused Adam, without an engine. The cells of a
size take turns, `--rounds` times, so that whatever else the machine does strikes all alike; a cell shows the median of its steps, and it
over that of one thread.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

WAITS = {"spin": {}, "passive": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}}
BATCH = {4: 32, 8: 32, 16: 32, 32: 16, 64: 8, 128: 4}


def cell(resolution: int, threads: int, seconds: float, overrides: list[str]) -> list[float]:
    """Milliseconds of each step taken within `seconds`, after two that warm up; runs in the cell's own process."""
    import torch

    from hires import config as configuration
    from hires import networks
    from hires.objectives import system

    torch.set_num_threads(threads)
    config = configuration.load("train", [*overrides, "run=none", "data.root=none"])
    torch.manual_seed(0)
    made = {}
    for name in config.objective.players():
        made[name] = system(config.objective).network(config.objective, config.network, name, resolution, False)
        networks.initialise(made[name], lambda parameter: torch.Generator().manual_seed(0))
    G, U, I = (made[name] for name in ("generator", "energy", "inference"))  # noqa: E741
    adam = torch.optim.Adam([p for network in made.values() for p in network.parameters()], lr=1e-4, betas=(0.0, 0.99), fused=True)
    x = torch.randn(BATCH[resolution], config.network.image_channels, resolution, resolution)
    found, end = [], time.perf_counter() + seconds
    while len(found) < 4 or time.perf_counter() < end:
        start = time.perf_counter()
        mu, logvar = I(x)
        drawn = G(mu)
        loss = (drawn - x).square().mean() + U(drawn).mean() - U(x).mean() + logvar.square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        found.append((time.perf_counter() - start) * 1000)
    return found[2:]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolutions", default="4,16,32,64")
    parser.add_argument("--threads", default="", help="such as 1,2 (default: 1, 2, 4, … up to the cores)")
    parser.add_argument("--neighbours", type=int, default=0, help="processes that keep a core busy meanwhile")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each cell in a round")
    parser.add_argument("settings", nargs="*", default=["network=slim"], help="of the networks, as for hires train (default network=slim)")
    parser.add_argument("--cell", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        resolution, threads = map(int, args.cell.split(","))
        print(json.dumps(cell(resolution, threads, args.seconds, args.settings)))
        return
    cores = len(os.sched_getaffinity(0))
    threads = [int(n) for n in args.threads.split(",")] if args.threads else [n for n in (1, 2, 4, 8, 16, 32) if n <= cores]
    cells = [(n, wait) for n in threads for wait in WAITS if n > 1 or wait == "spin"]
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(args.neighbours)]
    try:
        print(f"{cores} cores, {args.neighbours} busy neighbours, load {os.getloadavg()[0]:.1f}; ms of a step, and over one thread's")
        print("pixels | " + " | ".join(f"{n} thread{'s' * (n > 1)}{', ' + wait if n > 1 else ''}" for n, wait in cells))
        for resolution in map(int, args.resolutions.split(",")):
            found = {one: [] for one in cells}
            for _ in range(args.rounds):
                for n, wait in cells:
                    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))} | WAITS[wait]
                    command = [sys.executable, __file__, "--cell", f"{resolution},{n}", "--seconds", str(args.seconds), *args.settings]
                    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
                    found[n, wait].append(statistics.median(json.loads(done.stdout)))
            one = statistics.median(found[cells[0]])
            shown = (statistics.median(found[c]) for c in cells)
            print(f"{resolution} | " + " | ".join(f"{ms:.1f} ({ms / one:.2f})" for ms in shown), flush=True)
    finally:
        for process in busy:
            process.terminate()


if __name__ == "__main__":
    main()
