"""The learned gate over token routes and its loss, to cost as much as plain PVTv2: for networks from scratch."""

_base_ = ['routes.py']
budget = 1.0
gate_loss = dict(budget=budget)
