"""Dataset distillation by optimal transport, as pure functions in JAX."""
