"""The keys of a configuration: each is read with its type, and unread keys are listed."""

import math
from collections.abc import Mapping


class Fields:
    """The keys and values of a file; records which keys were read.

    A key with the value null counts as absent, as in transformers.
    """

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values
        self._read: set[str] = set()

    def unread(self) -> dict[str, object]:
        """Return the keys that were not read, with their values."""
        return {k: v for k, v in self._values.items() if k not in self._read}

    def states(self, name: str) -> bool:
        """Return whether the key is present, even with null."""
        return name in self._values

    def get(self, name: str) -> object:
        """Return a value of any type; None if it is absent."""
        self._read.add(name)
        return self._values.get(name)

    def whole(self, name: str, default: int | None = None) -> int:
        """Return a positive whole number.

        Raises:
            ValueError: it is not one, or it is absent and there is no default.
        """
        value = self.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}: expected a positive whole number")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Return a positive finite number.

        Raises:
            ValueError: it is not one, or it is absent and there is no default.
        """
        value = self.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}: expected a number")
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value!r}: expected a positive finite number")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a boolean.

        Raises:
            ValueError: it is not one; 0, 1 and "false" are not accepted.
        """
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}: expected true or false")
        return value

    def mapping(self, name: str) -> Mapping[str, object]:
        """Return an object; an empty one if it is absent.

        Raises:
            ValueError: it is not an object.
        """
        value = self.get(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} is {value!r}: expected an object")
        return value
