"""The `dataclass` decorator, which compiles nothing until an object is made.

The standard one writes and compiles six methods of each class while its module loads, half a millisecond a
class, and a command loads 50 to 80 classes. This one lets the standard library collect the fields, gives the
class methods that go through the list of them, and compiles `__init__`, which should be fast, when it is
first called.
`dataclasses.fields`, `replace`, `inspect.signature`, pickles and errors are those of a standard dataclass.
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
import reprlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls: type | None = None, /, **options: bool) -> Any:
        """Make a dataclass; the options are those of the standard decorator."""
        return _made(cls, **options) if cls is not None else lambda given: _made(given, **options)


_Field = dataclasses.Field[Any]
_MISSING = dataclasses.MISSING


class _FromFactory:
    def __repr__(self) -> str:
        return "<factory>"


_FROM_FACTORY = _FromFactory()


def _made(cls: type, **options: bool) -> type:
    if not _is_plain(cls, options):
        return dataclasses.dataclass(**options)(cls)
    frozen, equal, shown = options.get("frozen", False), options.get("eq", True), options.get("repr", True)
    explicit = cls.__dict__.get("__hash__", _MISSING)
    hashable = explicit is _MISSING or (explicit is None and "__eq__" in cls.__dict__)
    cls.__doc__ = cls.__doc__ or cls.__name__  # else its signature is looked for
    collected: dict[str, Any] = {name: options[name] for name in ("slots", "kw_only") if name in options}
    # The standard decorator checks that all of a family are frozen or none is.
    derived = any(dataclasses.is_dataclass(base) for base in cls.__mro__[1:])
    if derived:
        collected["frozen"] = frozen
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, **collected)(cls)
    fields = dataclasses.fields(made)
    made.__init__ = _LazyInit(made, fields, frozen=frozen)
    if shown and "__repr__" not in made.__dict__:
        made.__repr__ = _repr_of([field.name for field in fields if field.repr])
    if equal and "__eq__" not in made.__dict__:
        made.__eq__ = _eq_of(_values_of([field.name for field in fields if field.compare]))
    if equal and hashable:
        used = [f.name for f in fields if (f.compare if f.hash is None else f.hash)]
        made.__hash__ = _hash_of(_values_of(used)) if frozen else None
    if frozen and not derived:
        _freeze(made, fields, slots=options.get("slots", False))
    # Whoever derives a dataclass from this one asks the record of its options.
    for name, given in (("init", True), ("repr", shown), ("eq", equal), ("frozen", frozen)):
        setattr(made.__dataclass_params__, name, given)
    return made  # type: ignore[no-any-return]


def _is_plain(cls: type, options: dict[str, bool]) -> bool:
    """Tell whether a class needs nothing of what is left to the standard decorator."""
    if not options.keys() <= {"frozen", "slots", "eq", "repr", "kw_only"}:
        return False
    if {"__init__", "__setattr__", "__delattr__"} & cls.__dict__.keys():
        return False
    if any("InitVar" in str(kind) for kind in inspect.get_annotations(cls).values()):
        return False
    given = [value for value in vars(cls).values() if isinstance(value, dataclasses.Field)]
    return all(field.init for field in given)


class _LazyInit:
    """Stands for the `__init__` of a class until it is looked up."""

    def __init__(self, owner: Any, fields: Sequence[_Field], *, frozen: bool) -> None:
        self._owner, self._fields, self._frozen = owner, fields, frozen

    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        init = _init_of(self._owner, self._fields, frozen=self._frozen)
        self._owner.__init__ = init
        return init if instance is None else init.__get__(instance, owner)


def _init_of(owner: Any, fields: Sequence[_Field], *, frozen: bool) -> Any:
    """Compile the `__init__` that the standard decorator would write."""
    known: dict[str, Any] = {"_set_": object.__setattr__, "_FACTORY_": _FROM_FACTORY}
    parameters, lines = ["_self_"], []
    for field in sorted(fields, key=lambda one: bool(one.kw_only)):
        name = value = field.name
        if field.kw_only and "*" not in parameters:
            parameters.append("*")
        parameter = name
        if field.default_factory is not _MISSING:
            known[f"_make_{name}"], parameter = field.default_factory, f"{name}=_FACTORY_"
            value = f"_make_{name}() if {name} is _FACTORY_ else {name}"
        elif field.default is not _MISSING:
            known[f"_given_{name}"], parameter = field.default, f"{name}=_given_{name}"
        parameters.append(parameter)
        lines.append(f"_set_(_self_, {name!r}, {value})" if frozen else f"_self_.{name} = {value}")
    if hasattr(owner, "__post_init__"):
        lines.append("_self_.__post_init__()")
    text = "\n  ".join([f"def __init__({', '.join(parameters)}):", *(lines or ["pass"])])
    found: dict[str, Any] = {}
    module = sys.modules.get(owner.__module__)
    code = f"def made({', '.join(known)}):\n {text}\n return __init__"
    exec(code, vars(module) if module else {}, found)  # noqa: S102 - as the standard decorator; names of fields only
    init = found["made"](**known)
    init.__qualname__ = f"{owner.__qualname__}.__init__"
    init.__annotations__ = {field.name: field.type for field in fields} | {"return": None}
    return init


def _values_of(names: Sequence[str]) -> Callable[[object], tuple[Any, ...]]:
    """Return what reads these attributes of an object, as a tuple."""
    if not names:
        return lambda _: ()
    read = operator.attrgetter(*names)
    return read if len(names) > 1 else lambda instance: (read(instance),)


def _repr_of(names: Sequence[str]) -> Callable[[Any], str]:
    @reprlib.recursive_repr()
    def represent(self: Any) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__qualname__}({shown})"

    return represent


def _eq_of(values: Callable[[object], tuple[Any, ...]]) -> Callable[[object, object], bool]:
    def equals(self: object, other: object) -> bool:
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    return equals


def _hash_of(values: Callable[[object], tuple[Any, ...]]) -> Callable[[object], int]:
    def hashed(self: object) -> int:
        return hash(values(self))

    return hashed


def _freeze(made: Any, fields: Sequence[_Field], *, slots: bool) -> None:
    """Refuse to set fields; let frozen objects with slots be pickled all the same."""
    names = frozenset(field.name for field in fields)

    def set_field(self: Any, name: str, value: Any) -> None:
        if type(self) is made or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        super(made, self).__setattr__(name, value)

    def delete_field(self: Any, name: str) -> None:
        if type(self) is made or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        super(made, self).__delattr__(name)

    def get_state(self: Any) -> list[Any]:
        return [getattr(self, field.name) for field in dataclasses.fields(self)]

    def set_state(self: Any, state: Sequence[Any]) -> None:
        for field, value in zip(dataclasses.fields(self), state, strict=True):
            object.__setattr__(self, field.name, value)

    made.__setattr__, made.__delattr__ = set_field, delete_field
    if slots and "__getstate__" not in made.__dict__:
        made.__getstate__ = get_state
    if slots and "__setstate__" not in made.__dict__:
        made.__setstate__ = set_state
