"""Checkpoints: written by any number of processes, read by any other, kept by rule."""
