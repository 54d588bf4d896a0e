"""Losses on gate values: what keeps a gate near the wanted coarse ratio or cost without making it constant.

Each returns a dict of scalars named ``loss_gate_*``, the budget of costs ``loss_budget``, a teacher of the whole model
``loss_teacher``. In several processes, each
with the same n, the values of all are gathered with their gradient: the losses are those of the global batch, and so
are their gradients once DistributedDataParallel has averaged them.
"""

from .boundary import BoundaryGateLoss
from .nested import NestedGateLoss
from .shaping import BatchShapingLoss, BetaShapingLoss
from .targets import BudgetLoss, RatioLoss
from .teacher import TeacherLoss
from .tokens import token_loss
from .utility import UtilityGateLoss, region_means

__all__ = [
    'BatchShapingLoss',
    'BetaShapingLoss',
    'BoundaryGateLoss',
    'BudgetLoss',
    'NestedGateLoss',
    'RatioLoss',
    'TeacherLoss',
    'UtilityGateLoss',
    'region_means',
    'token_loss',
]
