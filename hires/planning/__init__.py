"""What a schedule will take, computed without training: memory, time, scaling."""
