"""What every process needs to run: settings files, logs, metrics, readiness, child processes, clock, randomness."""
