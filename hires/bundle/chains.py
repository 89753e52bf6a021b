"""How a trained system goes on drawing by Langevin once its replay buffer is gone."""

import math

from hires.objectives.base import ObjectiveConfig

MOST_ROUNDS = 50  # of a chain that begins again rarely or never


def chains_of(objective: ObjectiveConfig) -> dict[str, float] | None:
    """How the Langevin chains of a system with these settings go: arguments of hires_bundle.langevin; None for a system that has none.

    Where they begin at a generator's pictures they take as many steps as in training; where they go on with the pictures of a buffer as
    many as a chain has there on average, from the uniform noise that it began at.
    """
    chains = objective.chains
    if chains is None:
        return None
    rounds = 1 if "generator" in objective.players() else min(MOST_ROUNDS, 1 / chains.restart if chains.restart else math.inf)
    numbers = {name: float(getattr(chains, name)) for name in ("step_size", "noise", "reach")}
    return {"steps": round(rounds * chains.steps), **numbers, **({"noise_first": True} if chains.noise_first else {})}
