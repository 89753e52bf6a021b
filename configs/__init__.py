"""Hydra configurations: `train.yaml`, one file a verb, and the groups network, objective, data, schedule, zero, cluster, experiment."""
