"""What the commands measure with: forms of a backbone, timing, counting, sweeps, bootstraps."""
