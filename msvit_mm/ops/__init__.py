"""Pure tensor functions on torch alone: no state, no registry, no host."""

from .priors import beta_cdf, cramer_von_mises, normal_cdf, relaxed_bernoulli_cdf

__all__ = ['beta_cdf', 'cramer_von_mises', 'normal_cdf', 'relaxed_bernoulli_cdf']
