"""What a Slurm job notes beside its run, and checks before it trains."""
