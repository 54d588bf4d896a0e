"""A gate under which the regions with the least blurred edge are coarse. A stand-in, beside the leaf's coarse ratio."""

stand_in = dict(type='EdgeGate')
