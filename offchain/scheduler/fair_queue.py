"""A queue in which no tenant waits for another tenant's backlog.

Inside a priority class the tenant that was given the least work goes first (virtual token counter: Sheng et al., "Fairness in
Serving Large Language Models", OSDI 2024). A tenant that was idle starts level with the others, so idling saves nothing up.
"""

from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from offchain.scheduler.work import Priority


class Queued(Protocol):
    """What the queue needs of its items."""

    @property
    def tenant(self) -> str: ...

    @property
    def priority(self) -> Priority: ...

    @property
    def capability(self) -> str:
        """What the item waits for, e.g. a model."""


T = TypeVar("T", bound=Queued)


class FairQueue(Generic[T]):
    """Items by capability. Strict between classes; by least work inside a class; first come, first served inside a tenant."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[Priority, dict[str, deque[T]]]] = {}
        self._served: dict[str, float] = {}
        self._waiting: dict[str, int] = {}
        self._floor = 0.0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def waiting_of(self, tenant: str) -> int:
        """Number of a tenant's items."""
        return self._waiting.get(tenant, 0)

    def has(self, capability: str) -> bool:
        """Whether an item waits for this capability."""
        return capability in self._lines

    def capabilities(self) -> list[str]:
        """Capabilities that items wait for."""
        return list(self._lines)

    def push(self, item: T, *, first: bool = False) -> None:
        """Add an item; `first` puts it before all others of its tenant (for a second attempt)."""
        classes = self._lines.setdefault(item.capability, {})
        tenants = classes.setdefault(item.priority, {})
        if not self._waiting.get(item.tenant):
            # who was idle starts level with those that wait
            self._served[item.tenant] = max(self._served.get(item.tenant, 0.0), self._floor)
        line = tenants.setdefault(item.tenant, deque())
        if first:
            line.appendleft(item)
        else:
            line.append(item)
        self._waiting[item.tenant] = self._waiting.get(item.tenant, 0) + 1
        self._size += 1

    def remove(self, item: T) -> None:
        """Remove an item. Raises KeyError or ValueError when it is not in the queue."""
        classes = self._lines[item.capability]
        tenants = classes[item.priority]
        tenants[item.tenant].remove(item)
        if not tenants[item.tenant]:
            del tenants[item.tenant]
            if not tenants:
                del classes[item.priority]
                if not classes:
                    del self._lines[item.capability]
        self._size -= 1
        self._waiting[item.tenant] -= 1
        if not self._waiting[item.tenant]:
            del self._waiting[item.tenant]

    def order(self, capability: str) -> Iterator[T]:
        """The first item of each tenant, in the order in which they should be served now."""
        for _, tenants in sorted(self._lines.get(capability, {}).items()):
            if len(tenants) == 1:
                yield from [line[0] for line in tenants.values()]
                continue
            for tenant in sorted(tenants, key=lambda name: (self._served.get(name, 0.0), name)):
                if tenants.get(tenant):
                    yield tenants[tenant][0]

    def everybody(self) -> list[T]:
        """All items."""
        tenants = [tenants for classes in self._lines.values() for tenants in classes.values()]
        return [item for lines in tenants for line in lines.values() for item in line]

    def charge(self, tenant: str, cost: float) -> None:
        """A tenant was given work of this cost (tokens)."""
        if len(self._served) > 100_000:
            # a bound: who does not wait is treated as idle from now on
            self._served = {name: value for name, value in self._served.items() if name in self._waiting}
        before = max(self._served.get(tenant, 0.0), self._floor)
        self._served[tenant] = before + cost
        if self._waiting:
            self._floor = min(self._served.get(name, 0.0) for name in self._waiting)
        else:
            self._floor = before
