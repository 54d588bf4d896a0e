"""Random regions of random ratio, a quarter of the batches all fine or all coarse: a backbone then knows every mix."""

stand_in = dict(type='RandomGate', coarse_ratio=(0.0, 1.0), extremes=0.25)
