"""The run: schedule, noise, players, portable state, and the loop."""
