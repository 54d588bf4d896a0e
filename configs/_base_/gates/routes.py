"""The learned gate over token routes and its loss, to cost 0.875 of plain PVTv2: part of the pretrained DiT models."""

budget = 0.875
gate = dict(type='RouteGate')
gate_loss = dict(type='BudgetLoss', budget=budget)
