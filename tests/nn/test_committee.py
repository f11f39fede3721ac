"""Several classifiers as one, and a part of the classes of one."""

import jax
import numpy as np
import pytest

from jaxdd import nn
from jaxdd.nn.convnet import ConvNet

SHAPE = (8, 8, 1)
IMAGES = np.random.default_rng(0).normal(size=(5, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def members():
    models = [nn.from_linen(ConvNet(3, depth=1, width=width)) for width in (4, 5)]
    return models, tuple(model.init(jax.random.key(k), SHAPE) for k, model in enumerate(models))


def test_a_committee_answers_with_the_mean_of_centred_logits(members):
    models, variables = members
    apply = nn.mean_of(tuple(model.apply for model in models))
    outputs = [model.apply(part, IMAGES) for model, part in zip(models, variables)]
    centred = [np.asarray(out.logits, np.float64) for out in outputs]
    want = np.mean([logits - logits.mean(1, keepdims=True) for logits in centred], 0)
    got = apply(variables, IMAGES)
    np.testing.assert_allclose(got.logits, want, atol=1e-5)
    np.testing.assert_array_equal(got.features, outputs[0].features)
    assert set(got.moments) == set(outputs[0].moments)
    assert nn.mean_of(tuple(model.apply for model in models)) is apply
    # Of one member twice nothing changes but the constant.
    twice = nn.mean_of((models[0].apply,) * 2)((variables[0],) * 2, IMAGES).logits
    np.testing.assert_allclose(jax.nn.softmax(twice), jax.nn.softmax(outputs[0].logits), atol=1e-6)


def test_a_committee_folds_all_its_members(members):
    models, variables = members
    apply = nn.mean_of(tuple(model.apply for model in models))
    assert nn.foldable(apply, variables, SHAPE)
    folded = nn.folded(apply, variables, SHAPE)
    assert not any("batch_stats" in part for part in folded)
    np.testing.assert_allclose(apply(folded, IMAGES).logits, apply(variables, IMAGES).logits, atol=1e-4)


def test_in_training_a_committee_is_the_mean_as_well(members):
    models, variables = members
    logits, same = nn.mean_in_training(tuple(model.apply_train for model in models))(variables, IMAGES)
    each = [np.asarray(model.apply_train(part, IMAGES)[0]) for model, part in zip(models, variables)]
    np.testing.assert_allclose(logits, np.mean([x - x.mean(1, keepdims=True) for x in each], 0), atol=1e-5)
    assert same is variables


def test_some_of_the_classes_keep_their_logits_in_the_order_asked_for(members):
    models, variables = members
    some = nn.of_classes(models[0].apply, (2, 0))
    whole = models[0].apply(variables[0], IMAGES)
    got = some(variables[0], IMAGES)
    np.testing.assert_array_equal(got.logits, np.asarray(whole.logits)[:, [2, 0]])
    np.testing.assert_array_equal(got.features, whole.features)
    trained, _ = nn.of_classes_in_training(models[0].apply_train, (2, 0))(variables[0], IMAGES)
    np.testing.assert_array_equal(trained, np.asarray(models[0].apply_train(variables[0], IMAGES)[0])[:, [2, 0]])
    folded = nn.folded(some, variables[0], SHAPE)
    np.testing.assert_allclose(some(folded, IMAGES).logits, got.logits, atol=1e-4)
    assert nn.of_classes(models[0].apply, (2, 0)) is some
