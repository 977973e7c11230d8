"""The ground floor: files, processes, signals, randomness and precision."""
