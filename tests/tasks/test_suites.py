"""What separates the suites."""

import pytest

from tasks import get, suites


def origins(suite):
    return {family.card.source for family in suite.values()} - {"synthetic"}


def test_names_are_unique_and_are_the_keys():
    names = [name for suite in suites.SUITES.values() for name in suite]
    assert len(names) == len(set(names)) == 67
    for name in names:
        assert get(name).name == name


def test_no_real_data_is_shared_between_suites():
    train, valid, held = (origins(suite) for suite in suites.SUITES.values())
    assert not train & valid
    assert not train & held
    assert not valid & held


def test_axis_says_how_a_family_differs_from_training():
    assert not any(family.card.axis for family in suites.META_TRAIN.values())
    assert all(family.card.axis for family in (suites.VALIDATION | suites.HELD_OUT).values())


def test_held_out_has_small_families():
    small = [family.name for family in suites.HELD_OUT.values() if family.card.parameters < 20_000]
    assert small == ["autompg_huber", "mnist_small", "mnist_rows_gru", "cart_pole"]


def test_unknown_name_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"unknown task 'mnist'.*digits_mlp.*bible_lstm"):
        get("mnist")


def test_every_task_but_one_has_a_target():
    without = {
        name for name, family in (suites.VALIDATION | suites.HELD_OUT).items() if not family.card.target
    }
    assert without == {"cart_pole"}  # which ends at zero
