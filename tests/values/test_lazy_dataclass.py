"""Lazy dataclasses against standard ones, made of the same classes."""

import copy
import dataclasses
import gc
import inspect
import pickle
import typing
from dataclasses import field, fields, replace

import pytest

from nm2trt.values.lazy_dataclass import dataclass as lazy

DECORATORS = {"lazy": lazy, "standard": dataclasses.dataclass}
SETS_OF_OPTIONS = [
    {},
    {"frozen": True},
    {"slots": True},
    {"frozen": True, "slots": True},
    {"frozen": True, "slots": True, "kw_only": True},
    {"frozen": True, "slots": True, "eq": False},
    {"frozen": True, "slots": True, "repr": False},
    {"slots": True, "eq": False},
    {"frozen": True, "slots": True, "order": True},
    {"unsafe_hash": True},
]


def plain():
    class Plain:
        """A class."""

        name: str
        sizes: tuple[int, ...] = ()
        notes: list = field(default_factory=list)
        secret: int = field(default=3, repr=False, compare=False)
        last: object = field(default=None, kw_only=True)

        @property
        def total(self):
            return sum(self.sizes)

    return Plain


def counted():
    class Counted:
        kind: typing.ClassVar[str] = "counted"
        size: int
        seen: typing.Any = field(default=(), hash=False)

        def __post_init__(self):
            if self.size < 0:
                raise ValueError("a size below zero")

        def __repr__(self):
            return f"<{self.size}>"

    return Counted


def hashed():
    class Hashed:
        size: int

        def __hash__(self):
            return 7

        def __eq__(self, other):
            return self.size % 2 == other.size % 2

    return Hashed


def empty():
    class Empty:
        pass

    return Empty


def converted():
    class Converted:
        size: dataclasses.InitVar[int]
        twice: int = field(init=False, default=0)

        def __post_init__(self, size):
            object.__setattr__(self, "twice", 2 * size)

    return Converted


def pair(make, options):
    """Return the class as both decorators make it."""
    return [DECORATORS[name](**options)(make()) for name in ("lazy", "standard")]


def answers(cls, *calls):
    """Return what each call gives or raises, in words."""
    return [answer(cls, call) for call in calls]


def answer(cls, call):
    try:
        return repr(call(cls)).split(" object at")[0]
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def set_name(value):
    value.name = "other"


def delete_name(value):
    del value.name


def set_more(value):
    value.more = 1


CALLS = (
    lambda c: c("a"),
    lambda c: c("a", (1, 2), ["n"], 4, last=5),
    lambda c: c(name="a", last=2),
    lambda c: c(),
    lambda c: c("a", wrong=1),
    lambda c: c("a", (), [], 1, 2),
    lambda c: c(name="a").total,
    lambda c: c(name="a", sizes=(1, 2)) == c(name="a", sizes=(1, 2), secret=9),
    lambda c: c(name="a") == c(name="b"),
    lambda c: c(name="a") != c(name="b"),
    lambda c: c(name="a") == "a",
    lambda c: c(name="a", sizes=(1,)) < c(name="b"),
    lambda c: c(name="a", notes=1) in {c(name="a", notes=1)},
    lambda c: hash(c(name="a", notes=1)) == hash(c(name="a", notes=1, secret=8)),
    lambda c: {c(name="a")},
    lambda c: c(name="a").notes is c(name="a").notes,
    lambda c: replace(c(name="a", sizes=(1,)), name="b"),
    lambda c: replace(c(name="a"), wrong="b"),
    lambda c: dataclasses.asdict(c(name="a")),
    lambda c: [(f.name, f.type, f.default, f.repr, f.kw_only) for f in fields(c)],
    lambda c: copy.copy(c(name="a", sizes=(3,))),
    lambda c: copy.deepcopy(c(name="a", notes=[1])).notes,
    lambda c: set_name(c(name="a")),
    lambda c: delete_name(c(name="a")),
    lambda c: str(inspect.signature(c)),
    lambda c: list(inspect.signature(c.__init__).parameters)[1:],
    lambda c: c.__match_args__,
    lambda c: hasattr(c(name="a"), "__dict__"),
    lambda c: c.__init__.__qualname__,
    lambda c: (c.__dataclass_params__.frozen, c.__dataclass_params__.eq, c.__doc__),
)


@pytest.mark.parametrize("options", SETS_OF_OPTIONS, ids=str)
def test_a_class_answers_as_a_standard_one(options):
    made, standard = pair(plain, options)
    calls = CALLS if "repr" not in options else CALLS[2:4] + CALLS[7:16] + CALLS[22:]
    if "slots" not in options:
        calls = (*calls, lambda c: set_more(c(name="a")))
    assert answers(made, *calls) == answers(standard, *calls)


@pytest.mark.parametrize("options", SETS_OF_OPTIONS[:8], ids=str)
@pytest.mark.parametrize("make", [counted, hashed, empty, converted])
def test_methods_of_the_class_itself_stay(make, options):
    calls = (
        lambda c: c(4),
        lambda c: c(size=4),
        lambda c: c(size=-1),
        lambda c: c(),
        lambda c: c() == c(),
        lambda c: c(size=4) == c(size=6),
        lambda c: hash(c(size=4)) == hash(c(size=4)),
        lambda c: c(size=4).twice,
        lambda c: c.kind,
        lambda c: str(inspect.signature(c)),
        lambda c: [f.name for f in fields(c)],
    )
    made, standard = pair(make, options)
    assert answers(made, *calls) == answers(standard, *calls)


@pytest.mark.parametrize("base", DECORATORS)
@pytest.mark.parametrize("derived", DECORATORS)
def test_classes_derive_from_one_another(base, derived):
    @DECORATORS[base](frozen=True, slots=True)
    class Base:
        size: int
        name: str = "a"

    @DECORATORS[derived](frozen=True, slots=True)
    class Derived(Base):
        more: int = 1

    assert repr(Derived(2, more=3)).endswith("Derived(size=2, name='a', more=3)")
    assert Derived(2) == Derived(2)
    assert Derived(2) != Base(2)
    assert hash(Derived(2)) == hash(Derived(2))
    assert replace(Derived(2), more=5) == Derived(2, more=5)
    assert copy.deepcopy(Derived(2, more=5)) == Derived(2, more=5)
    assert [f.name for f in fields(Derived)] == ["size", "name", "more"]
    assert str(inspect.signature(Derived)).startswith("(size: int, name: str = 'a', more: int = 1)")
    for name in ("size", "more"):
        with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot assign to field '{name}'"):
            setattr(Derived(2), name, 3)
    with pytest.raises(TypeError, match="cannot inherit non-frozen dataclass from a frozen one"):

        @DECORATORS[derived](slots=True)
        class Thawed(Base):
            more: int = 1


@lazy(frozen=True, slots=True)
class Pickled:
    """A class that pickle finds by its name."""

    size: int
    inner: object = None


def test_an_object_is_pickled():
    value = Pickled(3, Pickled(4))
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(value, protocol)) == value


def test_an_object_inside_itself_is_shown():
    inner = []
    value = Pickled(1, inner)
    inner.append(value)
    assert repr(value) == "Pickled(size=1, inner=[...])"


def test_init_is_compiled_once_and_at_the_first_object():
    @lazy(frozen=True, slots=True)
    class Late:
        size: int

    assert not inspect.isfunction(Late.__dict__["__init__"])
    Late(1)
    init = Late.__dict__["__init__"]
    assert inspect.isfunction(init)
    Late(2)
    assert Late.__dict__["__init__"] is init


def test_hints_are_read_as_of_a_standard_class():
    assert typing.get_type_hints(Pickled) == {"size": int, "inner": object}
    assert typing.get_type_hints(Pickled.__init__)["size"] is int


def test_without_parentheses():
    @lazy
    class Bare:
        size: int = 2

    assert Bare() == Bare(2)
    gc.collect()
    Bare().size = 3
