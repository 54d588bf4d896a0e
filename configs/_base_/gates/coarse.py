"""A gate under which every region is coarse. A stand-in, beside ``gate_loss=None``."""

stand_in = dict(type='FixedGate', scale='coarse')
