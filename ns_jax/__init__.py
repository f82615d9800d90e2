"""Noisy Student self-training of EfficientNets in JAX. `ns_jax.load` opens a trained one."""


def __getattr__(name: str) -> object:
    """`load` and `Classifier`, imported when asked for: a mistyped flag need not wait for JAX."""
    if name in ("load", "Classifier"):
        from ns_jax import api

        return getattr(api, name)
    raise AttributeError(f"module 'ns_jax' has no attribute {name!r}")
