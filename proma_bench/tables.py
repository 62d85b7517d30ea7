"""Tables of what can be added to this package: entries by name, the built-in ones first."""

from __future__ import annotations

from typing import Protocol, TypeVar, runtime_checkable


@runtime_checkable
class Named(Protocol):
    """What has a name."""

    @property
    def name(self) -> str:
        """Its key in the table."""


Entry = TypeVar("Entry", bound=Named)


class Table(dict[str, Entry]):
    """Entries by name. Plug-ins add theirs by `register`.

    Args:
        kind: what an entry is, for messages.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    def register(self, entry: Entry) -> Entry:
        """Add an entry; everything that reads the table knows it from then on.

        Args:
            entry: the new entry.

        Returns:
            The same entry.

        Raises:
            ValueError: there is another entry of that name already.
        """
        if self.setdefault(entry.name, entry) != entry:
            raise ValueError(f"there is a {self._kind} {entry.name!r} already")
        return entry
