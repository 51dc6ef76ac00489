"""Notes on parts of one video add up, every field of them."""

from dataclasses import fields
from fractions import Fraction

from srgan_edge.video.frame import Damage, Finding, Notes


def test_every_field_is_added():
    first, later = Notes(unkept=("a", "b"), recolored="first"), Notes(unkept=("b", "c"))
    later.first_gap, later.reshaped = "1 to 3 s", "1 to 2 at 1.00 s"
    counts = [field.name for field in fields(Notes) if field.type == "int" or field.type is int]
    for number, name in enumerate(counts, 1):
        setattr(first, name, number)
        setattr(later, name, 10 * number)
    later.early_seconds = Fraction(1, 2)
    first.damage.add("broken", Fraction(1), repaired=True)
    later.damage.add("broken", Fraction(9))
    later.damage.add("cut off")
    total = first + later
    assert [getattr(total, name) for name in counts] == [11, 22, 33, 44, 55, 66, 77]
    assert (total.unkept, total.recolored) == (("a", "b", "c"), "first")
    assert (total.first_gap, total.reshaped) == ("1 to 3 s", "1 to 2 at 1.00 s")
    assert str(total.damage) == "broken at 1.00 s and 1 more; cut off"
    assert total.early_seconds == Fraction(1, 2)
    others = {"unkept", "recolored", "first_gap", "reshaped", "damage", "early_seconds"}
    assert {*counts, *others} == {field.name for field in fields(Notes)}
    assert (later + Notes()) == (Notes() + later) == later


def test_damage_is_repaired_if_each_finding_is():
    damage = Damage()
    assert damage.is_repaired
    damage.add("broken", repaired=True)
    assert damage.is_repaired
    damage.add("broken")
    assert not damage.is_repaired
    assert damage.findings == {"broken": Finding(None, 2, repaired=False)}


def test_one_occurrence_less():
    damage = Damage()
    damage.add("lost", Fraction(2))
    damage.add("lost", Fraction(3))
    assert damage.without("lost").findings["lost"].count == 1
    assert not damage.without("lost").without("lost")
    assert damage.without("another") == damage
