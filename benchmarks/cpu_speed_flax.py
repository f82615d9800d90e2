"""Stock Flax's side of `cpu_speed.py`: EfficientNet from `nn.Conv` and `nn.BatchNorm`, jitted."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from benchmarks import worker  # noqa: E402
from ns_jax.models import efficientnet  # noqa: E402  # noqa: E402

network, size, mode, batch = worker.arguments()
arch = efficientnet.build(f"efficientnet-{network}", num_classes=1000)


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        def conv(features, kernel=1, stride=1, groups=1, bias=False):
            window = (kernel, kernel)
            return nn.Conv(features, window, stride, feature_group_count=groups, use_bias=bias)

        def norm(x):
            return nn.BatchNorm(not train, momentum=0.99, epsilon=1e-3)(x)

        x = nn.swish(norm(conv(arch.features(32), 3, 2)(x)))
        for spec in arch.stages():
            for place in range(spec.repeats):
                stride, inputs = spec.stride if place == 0 else 1, x
                expanded = x.shape[-1] * spec.expand_ratio
                if spec.expand_ratio != 1:
                    x = nn.swish(norm(conv(expanded)(x)))
                x = nn.swish(norm(conv(expanded, spec.kernel_size, stride, expanded)(x)))
                gate = conv(max(1, inputs.shape[-1] // 4), bias=True)(x.mean((1, 2), keepdims=True))
                x = x * nn.sigmoid(conv(expanded, bias=True)(nn.swish(gate)))
                x = norm(conv(spec.features)(x))
                if inputs.shape == x.shape:
                    x = x + inputs
        x = nn.swish(norm(conv(arch.features(1280))(x))).mean((1, 2))
        return nn.Dense(1000)(x)


model = Plain()
images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3)).astype(np.uint8)
start = jnp.zeros((1, size, size, 3))
variables = jax.jit(lambda rng: model.init(rng, start, train=False))(jax.random.key(0))


def normalised(images):
    return (images.astype(jnp.float32) / 255.0 - 0.45) / 0.225


if mode == "inference":

    @jax.jit
    def predict(variables, images):
        logits = model.apply(variables, normalised(images), train=False)
        return jax.lax.top_k(jax.nn.softmax(logits), 16)

    def run():
        jax.block_until_ready(predict(variables, images))

else:
    optimiser = optax.rmsprop(1e-4, decay=0.9, eps=1e-3, momentum=0.9)
    state = (variables, optimiser.init(variables["params"]))

    @jax.jit
    def update(variables, opt_state, images):
        def loss_of(params):
            logits, updated = model.apply(
                {**variables, "params": params},
                normalised(images),
                train=True,
                mutable=["batch_stats"],
            )
            labels = jnp.zeros(batch, jnp.int32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

        grads, updated = jax.grad(loss_of, has_aux=True)(variables["params"])
        updates, opt_state = optimiser.update(grads, opt_state)
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, **updated}, opt_state

    def run():
        global state
        state = jax.block_until_ready(update(*state, images))


worker.serve(run)
