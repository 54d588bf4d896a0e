"""What the commands measure with: timing, counting, calibration, sweeps over budgets, differences under resampling."""
