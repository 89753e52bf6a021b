"""A local page to explore a bundle: draw, choose, move between, reconstruct, sort by energy, download."""
