"""Training against ``keras.Model.fit`` in the same run: same network, loss, optimiser and batch, the peer on arrays in
memory, ours with its pipeline, which cuts, degrades, fills, turns and standardises every example anew.

Run with ``pytest tests/benchmarks --benchmark-only -k training``; the ratio is in ``extra_info``.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from geosr.training.examples import Sampler
from geosr.training.fitting import Refiner, _optimizer, fit
from geosr.training.recipe import Data, Loss, Network, Patches, Recipe, Schedule
from geosr.training.scenes import Scene
from rasters import plumes

WARM, TIMED, ROUNDS = 10, 40, 4

RECIPES = {
    "srcnn": (Network("srcnn-9-3-5-n64"), Patches(48, 16, edge=0.25)),
    "edsr": (Network("edsr-32x6"), Patches(96, 8, edge=0.25)),
}


def recipe_of(name: str) -> Recipe:
    network, patches = RECIPES[name]
    schedule, loss = Schedule(WARM + TIMED, 1e-3), Loss(epsilon=0.05, relative=0.003)
    return Recipe(name, 4, (Data("*"),), network=network, patches=patches, schedule=schedule, loss=loss)


def scenes() -> list[Scene]:
    """Three fields with a few gaps, as satellites leave them."""
    made = []
    for seed in range(3):
        values = plumes((400, 400), seed)
        values[40 * seed : 40 * seed + 30, 50:200] = np.nan
        made.append(Scene(values, np.ones((400, 1)), 1.0, ()))
    return made


def per_step(moments: list[float]) -> float:
    """Mean seconds of the timed steps."""
    return (moments[-1] - moments[WARM - 1]) / (len(moments) - WARM)


def ours(recipe: Recipe) -> float:
    """Seconds a step of ``geosr train``, its pipeline included."""
    moments: list[float] = []
    fit(recipe, Sampler(scenes(), recipe), tick=lambda *_: moments.append(time.perf_counter()))
    return per_step(moments)


def theirs(recipe: Recipe, arrays: list[np.ndarray], halo: int) -> float:
    """Seconds a step of ``Model.fit`` on ready-made examples."""
    import keras
    import tensorflow as tf

    from geosr.models import keras_network
    from geosr.models.architectures import architecture

    arch, scale = architecture(recipe.network.architecture), recipe.scale
    net = keras_network.build(arch, 1, scale=scale, equivariant=recipe.network.equivariant, seed=1)
    refiner = Refiner(net, arch, scale)

    class Peer(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = net

        def call(self, x, training=False):
            return refiner.error(x[0], x[1], halo, training)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            coarse, truth, mask, weight = x
            error = y_pred / (refiner.bicubic_error(coarse, truth, mask, halo) + recipe.loss.relative)
            weights = mask * weight
            penalty = weights * tf.sqrt(tf.square(error) + recipe.loss.epsilon**2)
            return tf.reduce_sum(penalty) / (scale**2 * tf.reduce_sum(weights))

    moments: list[float] = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            moments.append(time.perf_counter())

    model = Peer()
    model.compile(optimizer=_optimizer(recipe.schedule))
    model.fit(arrays, None, batch_size=recipe.patches.batch, epochs=1, verbose=0, callbacks=[Watch()])
    return per_step(moments)


@pytest.mark.parametrize("name", RECIPES)
def test_bench_training(benchmark, name):
    pytest.importorskip("tensorflow")
    recipe = recipe_of(name)
    sampler = Sampler(scenes(), replace(recipe, seed=2))
    drawn = [sampler.batch() for _ in range(WARM + TIMED)]
    arrays = [np.concatenate([vars(batch)[key] for batch in drawn]) for key in vars(drawn[0])]
    peer, mine = [], []

    def run():
        mine.append(ours(recipe))

    benchmark.pedantic(run, setup=lambda: peer.append(theirs(recipe, arrays, sampler.halo)), rounds=ROUNDS)
    ratio = min(mine) / min(peer)
    benchmark.extra_info |= {"ms_a_step": round(1e3 * min(mine), 1), "ratio": round(ratio, 2)}
    print(f"{name}: {1e3 * min(mine):.1f} ms a step, {ratio:.2f} times keras.fit ({1e3 * min(peer):.1f} ms)")
    assert ratio < 1.25
