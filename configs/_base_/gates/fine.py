"""A gate under which every region is fine: the dense backbone. A stand-in, beside ``gate_loss=None``."""

stand_in = dict(type='FixedGate', scale='fine')
