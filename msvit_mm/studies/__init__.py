"""What the tools measure with: the forms of a backbone, time, calibration, sweeps over budgets, bootstraps."""
