"""Protocols by name: published settings, and what may be changed of them behind a colon."""

from dataclasses import replace

import pytest
from helpers import message

from jaxdd.data.augment import Augment
from jaxdd.ground import settings
from jaxdd.stages.relabel.labelling import HardLabels, SoftLabels
from jaxdd.stages.relabel.stored import Stream
from jaxdd.students import protocol
from jaxdd.students.protocol import PROTOCOLS, Protocol, named


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_name_gives_its_settings_and_all_of_them_exist(name):
    assert named(name) == PROTOCOLS[name]
    assert named(name).train.epochs == 300


def test_only_the_labels_of_hard_are_hard():
    assert [name for name in PROTOCOLS if isinstance(PROTOCOLS[name].labels, HardLabels)] == ["hard"]


def test_changes_change_what_they_say_and_nothing_else():
    soft = PROTOCOLS["soft"]
    plain = named("soft:plain")
    assert plain.train.augment == Augment(crop="none", flip=False, mix="none")
    assert replace(plain, train=replace(plain.train, augment=soft.train.augment)) == soft
    assert named("soft:uniform") == replace(soft, weights="uniform")
    assert named("dd-ranking:hard") == replace(PROTOCOLS["dd-ranking"], labels=HardLabels())
    assert named("soft:plain:uniform") == named("soft:uniform:plain")


def test_settings_of_ones_own_are_changed_likewise():
    mine = {"soft": replace(PROTOCOLS["soft"], labels=SoftLabels(temperature=4.0))}
    assert named("soft:uniform", mine) == replace(mine["soft"], weights="uniform")
    # Names that are not among them are still the published ones.
    assert named("wmdd", mine) == PROTOCOLS["wmdd"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("firm", "unknown protocol 'firm'"), ("sotf", "use soft"), ("soft:bare", "unknown change of a protocol 'bare'")],
)
def test_names_that_do_not_exist(name, words):
    assert words in message(lambda: named(name))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": "heavy"}, "'heavy'"),
        ({"labels": SoftLabels(temperature=0.0)}, "`temperature` 0.0"),
        ({"labels": HardLabels(smoothing=1.0)}, "`smoothing` 1.0"),
        ({"labels": HardLabels(smoothing=-0.1)}, "`smoothing` -0.1"),
    ],
)
def test_settings_that_do_not_exist(change, words):
    assert words in message(lambda: protocol.check(replace(PROTOCOLS["soft"], **change)))


def test_a_record_names_the_labels_and_unknown_ones_are_refused():
    for name in PROTOCOLS:
        assert settings.changed(Protocol(), settings.record(PROTOCOLS[name]), "here") == PROTOCOLS[name]
    assert settings.record(PROTOCOLS["hard"])["labels"] == {"name": "hard", "smoothing": 0.0}
    assert "'firm'" in message(lambda: settings.changed(PROTOCOLS["soft"], {"labels": "firm"}, "here"))


def test_a_stream_is_what_decides_the_answers_of_a_teacher():
    wmdd = PROTOCOLS["wmdd"]
    assert wmdd.stream(500) == Stream(wmdd.train.augment, 100, 20.0)
    assert wmdd.stream(30).batch_size == 30
    assert "hard labels" in message(lambda: PROTOCOLS["hard"].stream(30))


def test_changes_with_a_number_and_of_labels():
    pooled = protocol.named("soft:int8:pool=3")
    assert (pooled.labels.pool, pooled.labels.form.form) == (3, "int8") and pooled.train == PROTOCOLS["soft"].train
    assert protocol.named("soft:fixed").labels.per_image and not protocol.named("soft:fixed").labels.asks_teacher
    assert protocol.named("soft:smooth").train.horizon == 2 and protocol.named("hard:averaged").train.average == 0.99
    assert protocol.named("soft:mse").labels.asks_teacher and protocol.named("soft:mse").labels != SoftLabels()
    assert protocol.named("soft:batch").labels == SoftLabels(batch_statistics=True)
    assert protocol.named("soft:int8:shared").labels == SoftLabels(hard_share=0.1, form=protocol.INT8)
    assert "no `batch_statistics`" in message(lambda: protocol.named("hard:batch"))
    assert "no `pool`" in message(lambda: protocol.named("hard:pool=3"))
    for wrong in ("soft:pool=", "soft:pool=0", "soft:pool=x", "soft:pool=-1"):
        assert "whole number" in message(lambda wrong=wrong: protocol.named(wrong))
    assert "'pond'" in message(lambda: protocol.named("soft:pond=3"))


def test_the_bytes_of_labels_are_those_of_their_records():
    """Ten classes: 12 bytes a label as int8, 40 as float32; of ten images a class."""
    size = lambda name: protocol.named(name).label_bytes(10, 10)
    assert size("hard") == 0 and size("soft:fixed") == 120
    assert size("soft:int8:pool=1") == 120 and size("soft:int8:pool=30") == 3600
    assert size("soft:int8:epochs=30") == 3600 and protocol.named("hard:epochs=7").train.epochs == 7
    assert size("soft:int8") == 120 * PROTOCOLS["soft"].train.epochs and size("soft") == 400 * 300
