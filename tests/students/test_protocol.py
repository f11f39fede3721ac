"""Protocols by name: published settings, and what may be changed of them behind a colon."""

from dataclasses import replace

import pytest
from helpers import message

from jaxdd.data.augment import Augment
from jaxdd.students import protocol
from jaxdd.students.protocol import PROTOCOLS, named


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_name_gives_its_settings_and_all_of_them_exist(name):
    assert named(name) == PROTOCOLS[name]
    assert named(name).train.epochs == 300


def test_only_the_labels_of_hard_are_hard():
    assert [name for name in PROTOCOLS if PROTOCOLS[name].labels == "hard"] == ["hard"]


def test_changes_change_what_they_say_and_nothing_else():
    soft = PROTOCOLS["soft"]
    plain = named("soft:plain")
    assert plain.train.augment == Augment(crop="none", flip=False, mix="none")
    assert replace(plain, train=replace(plain.train, augment=soft.train.augment)) == soft
    assert named("soft:uniform") == replace(soft, weights="uniform")
    assert named("dd-ranking:hard") == replace(PROTOCOLS["dd-ranking"], labels="hard")
    assert named("soft:plain:uniform") == named("soft:uniform:plain")


def test_settings_of_ones_own_are_changed_likewise():
    mine = {"soft": replace(PROTOCOLS["soft"], temperature=4.0)}
    assert named("soft:uniform", mine) == replace(mine["soft"], weights="uniform")


@pytest.mark.parametrize(
    ("name", "words"),
    [("firm", "unknown protocol 'firm'"), ("sotf", "nearest: soft"), ("soft:bare", "unknown change 'bare'")],
)
def test_names_that_do_not_exist(name, words):
    assert words in message(lambda: named(name))


@pytest.mark.parametrize(
    ("change", "words"),
    [({"labels": "firm"}, "'firm'"), ({"weights": "heavy"}, "'heavy'"), ({"temperature": 0.0}, "temperature 0.0")],
)
def test_settings_that_do_not_exist(change, words):
    assert words in message(lambda: protocol.check(replace(PROTOCOLS["soft"], **change)))
