"""The ranges of numbers in a training job's configuration, as types of its fields."""

from typing import Annotated

from runtime.checking.tables import Range

Positive = Annotated[int, Range(least=1)]
NotNegative = Annotated[int, Range(least=0)]
AboveZero = Annotated[float, Range(above=0)]
NotNegativeNumber = Annotated[float, Range(least=0)]
ShareBelowOne = Annotated[float, Range(least=0, below=1)]
