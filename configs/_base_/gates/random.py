"""A gate under which random regions are coarse. A stand-in, beside ``gate_loss=None`` and the leaf's coarse ratio."""

stand_in = dict(type='RandomGate')
