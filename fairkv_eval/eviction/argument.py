"""One argument of a policy: how it is typed, checked, written and read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from fairkv_eval.errors import UsageError, unknown

Check = Callable[[str, Any], None]  # raises UsageError for a value that is not allowed


@dataclass(frozen=True)
class Argument:
    """A field of a policy as an argument.

    names: what it is typed as, with the help of each name; most arguments have one, the field's own. read: the field's
    value from the typed ones. typed: the typed values from the field's, None for a name that is not needed. needs: the
    argument without which it has no effect. restore: the field's value from a result's.
    """

    check: Check
    names: Mapping[str, str]
    read: Callable[..., Any]
    typed: Callable[[Any], tuple[Any, ...]]
    needs: str | None
    restore: Callable[[Any], Any]
    name: str = ""
    default: Any = None

    def of(self, arguments: Mapping[str, Any]) -> Any:
        """The field's value from typed arguments; the default if none of its names is among them."""
        if not any(name in arguments for name in self.names):
            return self.default
        return self.read(*(arguments.get(name) for name in self.names))

    def defaults(self) -> dict[str, Any]:
        """The default as typed, by name."""
        return dict(zip(self.names, self.typed(self.default), strict=True))

    def restored(self, value: Any) -> Any:
        """The field's value from a result's, which has none if it is older than the argument."""
        return self.default if value is None else self.restore(value)

    def arguments(self, value: Any) -> dict[str, Any]:
        """The field's value as typed arguments; {} for the default."""
        if value == self.default:
            return {}
        return {name: part for name, part in zip(self.names, self.typed(value), strict=True) if part is not None}


def argument(
    default: Any,
    check: Check,
    help: str | Mapping[str, str],
    *,
    read: Callable[..., Any] = lambda value: value,
    typed: Callable[[Any], tuple[Any, ...]] = lambda value: (value,),
    needs: str | None = None,
    restore: Callable[[Any], Any] | None = None,
    kw_only: bool = True,
) -> Any:
    """A dataclass field with its `Argument`. ``help``: by name, if it is not typed as one argument of its own name.
    ``restore`` is the default's type if absent."""
    names = {"": help} if isinstance(help, str) else help
    restore = restore or ((lambda value: value) if default is None else type(default))
    entry = Argument(check, names, read, typed, needs, restore)
    return field(default=default, kw_only=kw_only, metadata={"argument": entry})


def table(kind: Any) -> tuple[Argument, ...]:
    """The arguments of a dataclass, in the order of its fields."""
    made = [(f, f.metadata["argument"]) for f in fields(kind) if "argument" in f.metadata]
    return tuple(
        replace(
            entry, name=f.name, default=f.default, names={name or f.name: text for name, text in entry.names.items()}
        )
        for f, entry in made
    )


def fraction(name: str, value: Any) -> None:
    _check_number(name, value, value == 1, "a number from 0 to 1")


def fraction_below_one(name: str, value: Any) -> None:
    _check_number(name, value, False, "a number from 0 to below 1")


def _check_number(name: str, value: Any, is_one: bool, allowed: str) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (0 <= value < 1 or is_one):
        raise UsageError(f"{name}={value!r} is not allowed; it takes {allowed}")


def count(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name}={value!r} is not allowed; it takes a whole number from 1")


def count_or_none(name: str, value: Any) -> None:
    if value is not None:
        count(name, value)


def from_zero_or_none(name: str, value: Any) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise UsageError(f"{name}={value!r} is not allowed; it takes a whole number from 0")


def one_of(allowed: Sequence[str]) -> Check:
    def check(name: str, value: Any) -> None:
        if value not in allowed:
            raise unknown(name, value, allowed)

    return check


def unchecked(name: str, value: Any) -> None:
    """Leave it to `Argument.read`."""
