"""What comes out of a run: bundles that others can load, grids of pictures, interpolation videos."""
